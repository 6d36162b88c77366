use std::fmt;
use std::str::FromStr;

/// The text is none of the words that were allowed. Case matters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{found}' is not one of {allowed}")]
pub struct UnknownWord {
    /// What came.
    pub found: String,
    /// What may come, separated by commas.
    pub allowed: &'static str,
}

macro_rules! string_enum {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$vdoc:meta])* $variant:ident),* $(,)? } $allowed:literal
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The word as GWS v2 spells it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => stringify!($variant),)*
                }
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $(stringify!($variant) => Ok($name::$variant),)*
                    _ => Err(UnknownWord {
                        found: text.chars().take(64).collect(),
                        allowed: $allowed,
                    }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use string_enum;

string_enum! {
    /// What the supervisor does on the call.
    Activity {
        /// Hears agent and customer, is heard by nobody.
        ListenIn,
        /// Hears agent and customer, is heard by the agent only.
        Coach,
        /// Hears and is heard by both.
        BargeIn,
    } "ListenIn, Coach, BargeIn"
}

string_enum! {
    /// How long a monitor lasts.
    #[derive(serde::Deserialize)]
    Mode {
        /// The next call of the target, then the monitor is spent.
        NextCall,
        /// Every call of the target until cancelled.
        AllCalls,
    } "NextCall, AllCalls"
}

string_enum! {
    /// What a monitor follows.
    #[derive(serde::Deserialize)]
    Scope {
        /// The target: when it leaves the call, so does the supervisor.
        Agent,
        /// The call, wherever it goes, until the customer is gone.
        Call,
    } "Agent, Call"
}
