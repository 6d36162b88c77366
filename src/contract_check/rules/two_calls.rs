//! Two calls of one device: one that is made to ask about the other, and two that are swapped.

use super::joining::{colleague_answers, is_in, state};
use crate::contract_check::session::{Known, Miss, Session, Verdict, ensure};
use crate::contract_check::{Phones, Residents};
use crate::model::{
    CallFact, CallId, CallType, Command, DeviceId, LegState, PartyRole, Reason, TransferStep,
    UserData,
};
use crate::telephony::phones::PhoneCommand;

pub(super) async fn swaps_two_calls<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let residents = session.residents();
    let (agent, colleague) = (residents.agent.clone(), residents.colleague.clone());
    let first = session.talk().await?;
    let hold = Command::Hold { device: agent.device.clone(), call: first.clone() };
    session.accepted(&agent, hold).await?;
    session
        .until("the agent's leg is Held", |known, residents| {
            is_in(known, &first, &residents.agent, LegState::Held)
        })
        .await?;
    let second = session.ring_at(colleague.number, &agent).await?;
    let swap = |call: &CallId, other: &CallId| Command::SwapCalls {
        device: agent.device.clone(),
        call: call.clone(),
        other: other.clone(),
    };
    session.refused(&agent, swap(&first, &second), Reason::InvalidState).await?;
    session.act(PhoneCommand::Answer(agent.number.clone())).await?;
    until_swapped(session, &second, &first).await?;
    session.accepted(&agent, swap(&second, &first)).await?;
    until_swapped(session, &first, &second).await?;
    session.accepted(&agent, swap(&second, &first)).await?;
    until_swapped(session, &second, &first).await
}

/// Waits until the agent talks on one call and holds the other.
async fn until_swapped<P: Phones>(
    session: &mut Session<'_, P>,
    talks: &CallId,
    holds: &CallId,
) -> Verdict {
    let expected = format!("the agent talks on call {talks} and holds call {holds}");
    session
        .until(expected, |known, residents| {
            is_in(known, talks, &residents.agent, LegState::Established)
                && is_in(known, holds, &residents.agent, LegState::Held)
        })
        .await
}

/// What a consultation is for: Transfer or Conference.
type Purpose = fn(DeviceId, CallId, TransferStep) -> Command;

pub(super) async fn consults_and_transfers<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let purpose: Purpose = |device, call, step| Command::Transfer { device, call, step };
    let (call, consultation) = consult(session, purpose).await?;
    complete(session, purpose, &call).await?;
    session
        .until("customer and colleague talk and the agent is out", |known, residents| {
            known.calls.get(&call).is_some_and(|call| {
                is_with_customer_and_colleague(call, residents)
                    && state(call, &residents.agent).is_none()
                    && principals(call) == 2
            })
        })
        .await?;
    until_one_call(session, &call, &consultation).await
}

pub(super) async fn consults_and_confers<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let colleague = session.residents().colleague.clone();
    let purpose: Purpose = |device, call, step| Command::Conference { device, call, step };
    let (call, consultation) = consult(session, purpose).await?;
    // Either of the two calls may be named.
    complete(session, purpose, &consultation).await?;
    session
        .until("customer, colleague and agent talk, and the agent is owner", |known, residents| {
            known.calls.get(&call).is_some_and(|call| {
                is_with_customer_and_colleague(call, residents)
                    && state(call, &residents.agent) == Some(LegState::Established)
                    && principals(call) == 3
                    && call.owner.as_ref() == Some(&residents.agent.device)
            })
        })
        .await?;
    until_one_call(session, &call, &consultation).await?;
    let hangup = Command::Hangup { device: colleague.device.clone(), call: call.clone() };
    session.accepted(&colleague, hangup).await?;
    session
        .until("the colleague is out and the agent talks on", |known, residents| {
            known.calls.get(&call).is_some_and(|call| {
                state(call, &residents.colleague).is_none()
                    && state(call, &residents.agent) == Some(LegState::Established)
            })
        })
        .await
}

/// The agent talks with a customer, and asks the colleague about that: the call that is held, and
/// the one that is made to ask.
async fn consult<P: Phones>(
    session: &mut Session<'_, P>,
    purpose: Purpose,
) -> Verdict<(CallId, CallId)> {
    let residents = session.residents();
    let (agent, destination) = (residents.agent.clone(), residents.colleague.number.clone());
    let has_data = session.bench.offered.user_data;
    let pairs = has_data.then(|| ("Topic".to_owned(), "Contract".to_owned()));
    let user_data =
        UserData::new(pairs).map_err(|_| Miss::failed("one pair fits", "it does not"))?;
    let call = session.talk().await?;
    let step = |step| purpose(agent.device.clone(), call.clone(), step);
    session.refused(&agent, step(TransferStep::Complete), Reason::InvalidState).await?;
    let initiate = TransferStep::Initiate { destination, user_data };
    session.accepted(&agent, step(initiate)).await?;
    session
        .until(
            "the agent holds the call, and dials on a call of type Consult that has it as parent \
             and rings at the colleague's",
            |known, residents| {
                is_in(known, &call, &residents.agent, LegState::Held)
                    && consultation_about(known, &call).is_some_and(|asking| {
                        state(asking, &residents.agent) == Some(LegState::Dialing)
                            && state(asking, &residents.colleague) == Some(LegState::Ringing)
                            && (!has_data || asking.user_data.get("Topic") == Some("Contract"))
                    })
            },
        )
        .await?;
    let consultation = consultation_about(session.known(), &call).map(|asking| asking.id.clone());
    let consultation =
        consultation.ok_or_else(|| Miss::failed("there is a consultation", "there is none"))?;
    colleague_answers(session, &consultation).await?;
    until_swapped(session, &consultation, &call).await?;
    Ok((call, consultation))
}

async fn complete<P: Phones>(
    session: &mut Session<'_, P>,
    purpose: Purpose,
    named: &CallId,
) -> Verdict {
    let agent = session.residents().agent.clone();
    let complete = purpose(agent.device.clone(), named.clone(), TransferStep::Complete);
    session.accepted(&agent, complete).await
}

fn consultation_about<'a>(known: &'a Known, call: &CallId) -> Option<&'a CallFact> {
    let mut calls = known.calls.values();
    calls.find(|asking| {
        asking.parent.as_ref() == Some(call) && asking.call_type == CallType::Consult
    })
}

/// Waits until the consultation is over, and sees that the first call alone goes on.
async fn until_one_call<P: Phones>(
    session: &mut Session<'_, P>,
    call: &CallId,
    consultation: &CallId,
) -> Verdict {
    session
        .until("the consultation is over", |known, _| !known.calls.contains_key(consultation))
        .await?;
    let over = session.known().over.iter().filter(|fact| fact.id == *consultation).count();
    let expected = "it is told once that the consultation is over";
    ensure(over == 1, expected, || format!("{over} times"))?;
    let known = session.snapshot().await?;
    ensure(known.calls.keys().eq([call]), "the first call alone goes on", || known.describe())
}

fn is_with_customer_and_colleague(call: &CallFact, residents: &Residents) -> bool {
    let mut customers = call.parties.iter().filter(|party| party.role == PartyRole::Customer);
    customers.any(|customer| customer.state == LegState::Established)
        && state(call, &residents.colleague) == Some(LegState::Established)
}

/// The parties that are on the call, without supervisors.
fn principals(call: &CallFact) -> usize {
    let here = call.parties.iter().filter(|party| party.state != LegState::Released);
    here.filter(|party| party.role != PartyRole::Supervisor).count()
}
