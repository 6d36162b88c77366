//! What a trunk is trusted with and asked for, each by a word of its configuration.

use serde::Deserialize;

/// Which header field of a switch's INVITE says whose phone calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AssertedIdentity {
    /// P-Asserted-Identity, else Remote-Party-ID: the first that is there. From alone is nobody's
    /// phone.
    #[default]
    Any,
    /// P-Asserted-Identity (RFC 3325 9.1) and nothing else.
    Pai,
    /// Remote-Party-ID (draft-ietf-sip-privacy-04) and nothing else.
    Rpid,
    /// From and nothing else, of a switch that lets nobody outside show a number of its phones.
    From,
}

/// What is known of a peer that hands a leg on to another party by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandedOn {
    /// It says so in connected identity (RFC 4916, RFC 3325 9.1), or asks us to do it (RFC 3515).
    #[default]
    Told,
    /// It may do so without a word: nobody is coached there.
    Refuse,
}

/// Whether a trunk is told that its party is on hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrunkHold {
    /// By a re-INVITE (RFC 3264 8.4): a switch then plays its own music.
    #[default]
    Signal,
    /// It is not: its party goes on sending, and hears music of ours or silence.
    Local,
}

/// What becomes of a call that a trunk sends elsewhere (RFC 3261 21.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Redirects {
    /// It is refused.
    #[default]
    Refuse,
    /// The numbers are called, as far as the caller may call them.
    Follow,
}

/// What becomes of a REFER in a call that a trunk's own party is on (RFC 3515).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Referrals {
    /// It is refused: nobody outside sends the party of an agent anywhere.
    #[default]
    Refuse,
    /// The number takes the place of the trunk's party: a device's, or one that this trunk takes
    /// out.
    Follow,
}
