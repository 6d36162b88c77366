//! Scripts of calls, and chance against a naive model. The harness checks every output against the
//! model of [`model`].

mod addresses;
mod behind;
mod calls;
mod chance;
mod coaching;
mod connected;
mod consultations;
mod directory;
mod feature_codes;
mod formats;
mod harness;
mod invariants;
mod model;
mod on_hold;
mod reasons;
mod refusals;
mod relayed;
mod ringing;
mod routing;
mod srtp;
mod stored;
mod transfers;
mod user_data;
