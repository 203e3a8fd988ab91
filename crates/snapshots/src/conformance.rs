//! What every backend promises, as tests that any implementation can run.
