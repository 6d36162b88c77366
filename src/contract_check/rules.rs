//! How each rule is held against a backend.

mod calls;
mod commands;
mod joining;
mod monitoring;
mod two_calls;
mod watching;

use super::session::{Session, Verdict};
use super::{Phones, Rule};
use crate::model::Activity;

/// Holds the backend against a rule.
pub(super) async fn hold_against<P: Phones>(rule: Rule, session: &mut Session<'_, P>) -> Verdict {
    match rule {
        Rule::DescribesItself => watching::describes_itself(session),
        Rule::BeginsWithTheWhole => watching::begins_with_the_whole(session).await,
        Rule::ResumesAfterARevision => watching::resumes_after_a_revision(session).await,
        Rule::BeginsAnewElsewhere => watching::begins_anew_elsewhere(session).await,
        Rule::BeatsWhenNothingHappens => watching::beats_when_nothing_happens(session).await,
        Rule::RefusesMalformedInput => commands::refuses_malformed_input(session).await,
        Rule::RefusesByReasonAndCode => commands::refuses_by_reason_and_code(session).await,
        Rule::RefusesWhatIsNotThere => commands::refuses_what_is_not_there(session).await,
        Rule::RefusesWhatIsNotOffered => commands::refuses_what_is_not_offered(session).await,
        Rule::AnswersOnlyCodesThatWait => commands::answers_only_codes_that_wait(session).await,
        Rule::AsksOnlyForCallsThatWait => commands::asks_only_for_calls_that_wait(session).await,
        Rule::DoesARequestIdOnce => commands::does_a_request_id_once(session).await,
        Rule::RefusesAnotherCommandUnderAnId => {
            commands::refuses_another_command_under_an_id(session).await
        }
        Rule::KeepsUsersRequestIdsApart => commands::keeps_users_request_ids_apart(session).await,
        Rule::AnswersWithTheRevisionBefore => {
            commands::answers_with_the_revision_before(session).await
        }
        Rule::SetsDoNotDisturb => commands::sets_do_not_disturb(session).await,
        Rule::SetsForwarding => commands::sets_forwarding(session).await,
        Rule::ArmsAndCancels => monitoring::arms_and_cancels(session).await,
        Rule::ChangesWhenAskedAgain => monitoring::changes_when_asked_again(session).await,
        Rule::MonitorsOneTargetAtATime => monitoring::monitors_one_target_at_a_time(session).await,
        Rule::NobodyMonitorsItself => monitoring::nobody_monitors_itself(session).await,
        Rule::RefusesASecondSupervisor => monitoring::refuses_a_second_supervisor(session).await,
        Rule::JoinsTheNextCall => monitoring::joins_the_next_call(session).await,
        Rule::WaitsForTheAnswer => monitoring::waits_for_the_answer(session).await,
        Rule::WaitsForTheCallAfter => monitoring::waits_for_the_call_after(session).await,
        Rule::SwitchesLive => monitoring::switches_live(session).await,
        Rule::SpendsNextCall => monitoring::spends_next_call(session).await,
        Rule::KeepsScopeAgent => monitoring::keeps_scope_agent(session).await,
        Rule::JoinsACallThatGoesOn => monitoring::joins_a_call_that_goes_on(session).await,
        Rule::LeavesWhenCancelled => monitoring::leaves_when_cancelled(session).await,
        Rule::LetsASupervisorHangUp => monitoring::lets_a_supervisor_hang_up(session).await,
        Rule::ReportsABusySupervisor => monitoring::reports_a_busy_supervisor(session).await,
        Rule::ReportsARejection => monitoring::reports_a_rejection(session).await,
        Rule::JoinsNobodyWithoutLeave => monitoring::joins_nobody_without_leave(session).await,
        Rule::JoinsNobodyWhoMayNot => monitoring::joins_nobody_who_may_not(session).await,
        Rule::TellsWhichJoinsWaitForLeave => {
            monitoring::tells_which_joins_wait_for_leave(session).await
        }
        Rule::JoinsWithLeave => monitoring::joins_with_leave(session).await,
        Rule::EndsACallOnce => calls::ends_a_call_once(session).await,
        Rule::AnswersByCommand => calls::answers_by_command(session).await,
        Rule::HangsUpByCommand => calls::hangs_up_by_command(session).await,
        Rule::KeepsDoNotDisturb => commands::keeps_do_not_disturb(session).await,
        Rule::HoldsAndRetrieves => calls::holds_and_retrieves(session).await,
        Rule::Mutes => calls::mutes(session).await,
        Rule::Dials => calls::dials(session).await,
        Rule::ClearsACall => calls::clears_a_call(session).await,
        Rule::RejectsByCommand => calls::rejects_by_command(session).await,
        Rule::RedirectsByCommand => calls::redirects_by_command(session).await,
        Rule::ChangesUserData => calls::changes_user_data(session).await,
        Rule::BoundsUserData => calls::bounds_user_data(session).await,
        Rule::RingsOnWhereItCannotGo => calls::rings_on_where_it_can_not_go(session).await,
        Rule::SwapsWithNoCall => calls::swaps_with_no_call(session).await,
        Rule::SwapsTwoCalls => two_calls::swaps_two_calls(session).await,
        Rule::KeepsSupervisorsOff => calls::keeps_supervisors_off(session).await,
        Rule::TransfersAtOnce => joining::transfers_at_once(session).await,
        Rule::ConfersAndRemoves => joining::confers_and_removes(session).await,
        Rule::ConsultsAndTransfers => two_calls::consults_and_transfers(session).await,
        Rule::ConsultsAndConfers => two_calls::consults_and_confers(session).await,
        Rule::SendsDigits => joining::sends_digits(session).await,
        Rule::MutesTheMonitored => joining::mutes_the_monitored(session).await,
        Rule::GivesUpAnUnansweredPhone => monitoring::gives_up_an_unanswered_phone(session).await,
    }
}

/// The activities that every backend offers.
const ACTIVITIES: [Activity; 3] = [Activity::ListenIn, Activity::Coach, Activity::BargeIn];
