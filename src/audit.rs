//! The audit log: fsynced JSON lines.
