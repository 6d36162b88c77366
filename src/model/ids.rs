use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

macro_rules! text_ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
        #[serde(from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text as it came.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

text_ids! {
    /// A device (a phone or a routing point). Opaque: the ids of the field are not always UUIDs.
    DeviceId,
    /// A call, the same for everybody on it.
    CallId,
    /// A user of the gateway: the login name.
    UserId,
    /// A group of agents and their supervisors.
    GroupId,
    /// A service that calls the telephony contract, as the configuration names it.
    CallerName,
    /// Names one request; asking twice under the same id does it once.
    RequestId,
    /// Names one feature code that a supervisor's phone has dialled, or one key of its keypad.
    FeatureCodeId,
    /// A telephone number or extension. Personal data: log it through [`crate::telemetry::Pii`].
    Number,
}

/// Names a leg: one dialog with one phone or trunk and its media, from INVITE to BYE. The SIP user
/// agent makes even ids for incoming legs, the B2BUA odd ones for outgoing legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegId(pub u64);

/// Wall-clock time in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Whole seconds from `earlier` to `self`, zero when the clock went back.
    pub fn seconds_since(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0) / 1000
    }
}

/// The time as machines take it: monotonic for timers, wall for what people read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For timers.
    pub mono: Instant,
    /// For facts and logs.
    pub wall: Timestamp,
}

impl std::ops::Add<Duration> for Now {
    type Output = Now;

    fn add(self, later: Duration) -> Now {
        Now { mono: self.mono + later, wall: Timestamp(self.wall.0 + later.as_millis() as u64) }
    }
}
