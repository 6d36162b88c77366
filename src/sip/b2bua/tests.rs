//! Scripts of calls, and chance against a naive model. The house checks every output against the
//! model of [`house`].

mod addresses;
mod calls;
mod chance;
mod coaching;
mod connected;
mod consultations;
mod formats;
mod house;
mod refusals;
mod routing;
mod srtp;
mod stored;
mod transfers;
