//! Filters, in containerd's syntax.
