//! The rules: one sentence each, and what a backend must offer to be held against them.

use crate::model::{Capabilities, Mode, Scope};
use std::time::Duration;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $sentence:literal,)*) => {
        /// Something that every backend of the contract must do. The order is that of the check.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each has its sentence")]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// What it says.
            pub fn sentence(self) -> &'static str {
                match self {
                    $(Self::$name => $sentence,)*
                }
            }
        }
    };
}

rules! {
    DescribesItself =
        "Describe names the backend and offers ListenIn, Coach and BargeIn, AllCalls, and scope \
         Call.",
    BeginsWithTheWhole =
        "A watch begins with SnapshotBegin and its instance, then tells every device once, all at \
         revision 0, then SnapshotComplete with a revision from 1.",
    ResumesAfterARevision =
        "A watch that resumes is told that at once by a Heartbeat of its revision, and then only \
         what has come since.",
    BeginsAnewElsewhere =
        "A watch that asks for another instance, for a revision that is still to come or for \
         revision 0 begins with a snapshot.",
    BeatsWhenNothingHappens =
        "When nothing happens, a Heartbeat comes as often as the watch has asked for, at the \
         revision that was told last.",
    RefusesMalformedInput =
        "A command with a field that is absent, too long, unprintable or unknown is refused as \
         MissingParameter or InvalidInput, names the field and changes nothing.",
    RefusesByReasonAndCode =
        "A refusal has a google.rpc.ErrorInfo of the domain undertone with one of the contract's \
         reasons, and the gRPC code that belongs to it.",
    RefusesWhatIsNotThere =
        "A command for a device or a call that is not there is refused as NotFound.",
    RefusesWhatIsNotOffered =
        "A command that Describe does not offer is refused as Forbidden, or as NotFound for want \
         of the call.",
    AsksOnlyForCallsThatWait =
        "AdmitMonitoring for a call that is not there is refused as NotFound, or always as \
         Forbidden by a gateway, which confirms joins itself.",
    AnswersOnlyCodesThatWait =
        "StartMonitoring and StopMonitoring for a feature code that does not wait, and \
         RefuseFeatureCode of one, are refused as InvalidState and change nothing.",
    DoesARequestIdOnce =
        "A command that comes again under its request id is not done again, and its answer is the \
         same.",
    RefusesAnotherCommandUnderAnId =
        "Another command under a request id that was used is refused as InvalidInput.",
    KeepsUsersRequestIdsApart =
        "The same request id of two users is no repetition: both commands are done.",
    AnswersWithTheRevisionBefore =
        "A command is answered with the revision before it was done, not less than what was told \
         by then, and its facts have higher ones.",
    SetsDoNotDisturb = "SetDoNotDisturb is reported in the device, and nothing else of it changes.",
    SetsForwarding = "SetForwarding is reported in the device, and nothing else of it changes.",
    ArmsAndCancels =
        "StartMonitoring arms a monitor as it was asked for, and StopMonitoring ends it; without \
         a monitor StopMonitoring is refused as InvalidState.",
    ChangesWhenAskedAgain =
        "StartMonitoring for the same target changes activity, mode and scope of the monitor.",
    MonitorsOneTargetAtATime = "StartMonitoring for another target replaces the monitor.",
    NobodyMonitorsItself =
        "StartMonitoring of the supervisor's own device is refused as NotPermitted.",
    RefusesASecondSupervisor =
        "StartMonitoring of an agent that another supervisor monitors is refused as InUse, unless \
         the backend lets several.",
    JoinsTheNextCall =
        "An armed monitor joins the next call of its agent: Inviting, Joined, and the \
         supervisor's leg beside agent and customer, with its activity and the device it \
         monitors.",
    WaitsForTheAnswer =
        "While the agent's phone rings, an armed monitor stays armed and the supervisor is no \
         party of the call; it joins when the agent has answered.",
    WaitsForTheCallAfter =
        "With AllCalls a monitor is armed again when the call is over, with the activity first \
         asked for, and joins the next one.",
    SwitchesLive =
        "SwitchMonitoring changes the activity of a joined supervisor, and is refused as \
         InvalidState when it is that already.",
    SpendsNextCall = "With NextCall a monitor is gone when its call is over.",
    KeepsScopeAgent = "A monitor with scope Agent joins as one with scope Call does.",
    JoinsACallThatGoesOn =
        "A monitor joins a call that goes on already, and StartMonitoring again changes the \
         activity there without another leg.",
    LeavesWhenCancelled = "StopMonitoring releases the supervisor's leg, and the call goes on.",
    LetsASupervisorHangUp =
        "When the supervisor hangs up, the monitor is armed and the supervisor does not come back \
         to that call.",
    ReportsABusySupervisor =
        "When the supervisor's phone is busy, a Failure of its device is reported, the call goes \
         on and the monitor is armed.",
    ReportsARejection =
        "When the supervisor's phone rejects the call, a Failure of its device is reported, the \
         call goes on and the monitor is armed.",
    EndsACallOnce =
        "A call that is over is told once, whole, with every party Released, and is in no \
         snapshot.",
    JoinsNobodyWithoutLeave =
        "With confirm_joins nobody joins until AdmitMonitoring; without it the monitor is armed, \
         and leave that comes too late is refused as InvalidState.",
    JoinsNobodyWhoMayNot = "With confirm_joins nobody joins when AdmitMonitoring says no.",
    TellsWhichJoinsWaitForLeave =
        "An AdmissionAsked that waits for its answer is in a snapshot, and one that is answered \
         is in none.",
    JoinsWithLeave = "With confirm_joins the supervisor joins when AdmitMonitoring says yes.",
    AnswersByCommand = "Answer picks up the phone that rings.",
    HangsUpByCommand = "Hangup releases the leg of the device.",
    KeepsDoNotDisturb =
        "A call to a device with do-not-disturb does not ring there, and the next one rings when \
         that is off again.",
    HoldsAndRetrieves =
        "Hold makes the leg Held and Retrieve makes it Established; either is refused as \
         InvalidState when it is so already.",
    Mutes =
        "Mute is reported in the party, and is refused as InvalidState while the phone rings and \
         when it is so already.",
    Dials = "Dial makes a call on which the device is a party.",
    ClearsACall =
        "ClearCall ends the whole call, the supervisor's leg too, and its monitor waits for the \
         next one.",
    RejectsByCommand =
        "Reject ends the call that rings, and is refused as InvalidState once it is established.",
    RedirectsByCommand = "Redirect makes the other number ring, and the first leg ends.",
    ChangesUserData =
        "ChangeUserData merges what it sets into the data of the call, deletes one key, and \
         clears them all.",
    BoundsUserData =
        "ChangeUserData that would be more than 400 keys is refused as InvalidInput and changes \
         nothing.",
    RingsOnWhereItCannotGo =
        "Redirect to the number at which the call rings is refused as InvalidState, and the phone \
         rings on.",
    SwapsWithNoCall =
        "SwapCalls with a call that is not there is refused as NotFound, and nothing is held.",
    SwapsTwoCalls =
        "SwapCalls of two calls of a device holds the one it talks on and takes back the one it \
         holds, whichever is named first, and is refused as InvalidState while one of them rings.",
    KeepsSupervisorsOff =
        "A supervisor neither holds, mutes, swaps, clears, rejects, redirects or transfers the \
         call that it monitors nor calls others into it, sends digits or changes its data: that \
         is refused as Forbidden, not for the state.",
    TransfersAtOnce =
        "Transfer in one step makes the other number ring and the first leg ends; a call that is \
         not established is refused as InvalidState.",
    ConfersAndRemoves =
        "Conference adds a party to the call and makes the device its owner, which alone of the \
         parties may take one out by RemoveParticipant.",
    ConsultsAndTransfers =
        "Transfer that begins with a consultation holds the call and makes another that names it \
         as parent, and its completion leaves customer and colleague on the first call and ends \
         the second.",
    ConsultsAndConfers =
        "Conference that begins with a consultation does so, too, and its completion leaves \
         customer, colleague and agent, the owner, on the first call and ends the second.",
    SendsDigits =
        "SendDtmf is accepted on an established call, also while the device holds it, and refused \
         as InvalidState while it rings.",
    MutesTheMonitored =
        "MuteMonitoredParty is reported in the monitored party, and is refused as InvalidState \
         when it is so already.",
    GivesUpAnUnansweredPhone =
        "When the supervisor's phone rings for 20 s unanswered, a Failure of its device is \
         reported, its leg ends, the call goes on and the monitor is armed (25 s are waited for \
         that).",
}

impl Rule {
    /// What Describe would have to offer, in its words; `None`: nothing that it does not.
    pub(super) fn missing(self, offered: &Capabilities) -> Option<&'static str> {
        let (is_offered, what) = match self {
            Rule::SetsDoNotDisturb | Rule::KeepsDoNotDisturb => {
                (offered.do_not_disturb, "do_not_disturb")
            }
            Rule::SetsForwarding => (offered.forwarding, "forwarding"),
            Rule::SwitchesLive => (offered.live_switching, "live_switching"),
            Rule::SpendsNextCall => (offered.modes.contains(&Mode::NextCall), "MODE_NEXT_CALL"),
            Rule::KeepsScopeAgent => (offered.scopes.contains(&Scope::Agent), "SCOPE_AGENT"),
            Rule::AnswersByCommand => (offered.answer, "answer"),
            Rule::HoldsAndRetrieves => (offered.hold, "hold"),
            Rule::Mutes => (offered.mute, "mute"),
            Rule::Dials => (offered.dial, "dial"),
            Rule::ClearsACall => (offered.clear_call, "clear_call"),
            Rule::RejectsByCommand => (offered.reject, "reject"),
            Rule::RedirectsByCommand | Rule::RingsOnWhereItCannotGo => {
                (offered.redirect, "redirect")
            }
            Rule::SwapsWithNoCall => (offered.swap_calls, "swap_calls"),
            Rule::SwapsTwoCalls => (offered.swap_calls && offered.hold, "swap_calls and hold"),
            Rule::KeepsSupervisorsOff => (
                offered.clear_call
                    || offered.reject
                    || offered.redirect
                    || offered.hold
                    || offered.swap_calls
                    || offered.mute
                    || offered.dtmf
                    || offered.transfers
                    || offered.conferences
                    || offered.user_data,
                "clear_call, reject, redirect, hold, swap_calls, mute, dtmf, transfers, \
                 conferences or user_data",
            ),
            Rule::TransfersAtOnce => (offered.transfers, "transfers"),
            Rule::ConfersAndRemoves => (offered.conferences, "conferences"),
            Rule::ConsultsAndTransfers => {
                (offered.transfers && offered.consultations, "transfers and consultations")
            }
            Rule::ConsultsAndConfers => {
                (offered.conferences && offered.consultations, "conferences and consultations")
            }
            Rule::SendsDigits => (offered.dtmf, "dtmf"),
            Rule::AnswersOnlyCodesThatWait => (offered.feature_codes, "feature_codes"),
            Rule::MutesTheMonitored => (offered.mute_monitored, "mute_monitored"),
            Rule::ChangesUserData | Rule::BoundsUserData => (offered.user_data, "user_data"),
            Rule::DescribesItself
            | Rule::BeginsWithTheWhole
            | Rule::ResumesAfterARevision
            | Rule::BeginsAnewElsewhere
            | Rule::BeatsWhenNothingHappens
            | Rule::RefusesMalformedInput
            | Rule::RefusesByReasonAndCode
            | Rule::RefusesWhatIsNotThere
            | Rule::RefusesWhatIsNotOffered
            | Rule::AsksOnlyForCallsThatWait
            | Rule::DoesARequestIdOnce
            | Rule::RefusesAnotherCommandUnderAnId
            | Rule::KeepsUsersRequestIdsApart
            | Rule::AnswersWithTheRevisionBefore
            | Rule::ArmsAndCancels
            | Rule::ChangesWhenAskedAgain
            | Rule::MonitorsOneTargetAtATime
            | Rule::NobodyMonitorsItself
            | Rule::RefusesASecondSupervisor
            | Rule::JoinsTheNextCall
            | Rule::WaitsForTheAnswer
            | Rule::WaitsForTheCallAfter
            | Rule::JoinsACallThatGoesOn
            | Rule::LeavesWhenCancelled
            | Rule::LetsASupervisorHangUp
            | Rule::ReportsABusySupervisor
            | Rule::ReportsARejection
            | Rule::EndsACallOnce
            | Rule::JoinsNobodyWithoutLeave
            | Rule::JoinsNobodyWhoMayNot
            | Rule::TellsWhichJoinsWaitForLeave
            | Rule::JoinsWithLeave
            | Rule::HangsUpByCommand
            | Rule::GivesUpAnUnansweredPhone => (true, ""),
        };
        (!is_offered).then_some(what)
    }

    /// Something must be done at telephones.
    pub(super) fn needs_phones(self) -> bool {
        self >= Rule::JoinsTheNextCall
    }

    /// How long it must wait at least, for what the contract gives so many seconds: five for leave
    /// to join, twenty for a supervisor's phone to be answered.
    pub(super) fn longest_wait(self) -> Duration {
        if self == Rule::JoinsNobodyWithoutLeave {
            Duration::from_secs(8)
        } else if self == Rule::GivesUpAnUnansweredPhone {
            Duration::from_secs(25)
        } else {
            Duration::ZERO
        }
    }

    /// AdmitMonitoring must be taken.
    pub(super) fn needs_admission(self) -> bool {
        matches!(
            self,
            Rule::JoinsNobodyWithoutLeave
                | Rule::JoinsNobodyWhoMayNot
                | Rule::TellsWhichJoinsWaitForLeave
                | Rule::JoinsWithLeave
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_is_one_sentence_of_its_own() {
        let mut said = std::collections::BTreeSet::new();
        for rule in Rule::ALL {
            let sentence = rule.sentence();
            assert!(sentence.ends_with('.') && !sentence.contains(". "), "{sentence}");
            assert!(said.insert(sentence), "{sentence}");
        }
    }

    #[test]
    fn what_is_not_offered_is_left_out() {
        let left_out = |offered: &Capabilities| {
            Rule::ALL.iter().filter(|rule| rule.missing(offered).is_some()).count()
        };
        let simulated = crate::telephony::simulated::capabilities();
        assert_eq!(left_out(&simulated), 1);
        let all = Capabilities { feature_codes: true, ..simulated };
        assert_eq!(left_out(&all), 0);
        assert_eq!(left_out(&Capabilities { do_not_disturb: false, ..all.clone() }), 2);
        assert_eq!(left_out(&Capabilities { consultations: false, ..all.clone() }), 2);
        assert_eq!(left_out(&Capabilities { swap_calls: false, ..all }), 2);
        assert_eq!(left_out(&Capabilities::default()), 26);
    }
}
