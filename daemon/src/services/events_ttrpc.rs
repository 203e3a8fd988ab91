//! The service `events_ttrpc`.
