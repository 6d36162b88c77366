//! The noisy shell of the gateway.
