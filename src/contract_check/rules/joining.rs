//! Parties that come to a call and leave it, and what is sent and silenced on it.

use crate::contract_check::session::{Known, Miss, Session, Verdict};
use crate::contract_check::{Person, Phones, Residents};
use crate::model::{
    Activity, CallFact, CallId, Command, LegState, PartyRole, Reason, TransferStep, UserData,
};
use crate::telephony::phones::PhoneCommand;

pub(super) async fn transfers_at_once<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let agent = session.residents().agent.clone();
    let step = single_step(session.residents());
    let call = session.ring().await?;
    let transfer = Command::Transfer { device: agent.device.clone(), call: call.clone(), step };
    session.refused(&agent, transfer.clone(), Reason::InvalidState).await?;
    session.act(PhoneCommand::Answer(agent.number.clone())).await?;
    session.until_talking(&call).await?;
    session.accepted(&agent, transfer).await?;
    session
        .until("the colleague's phone rings and the agent has left", |known, residents| {
            known.calls.get(&call).is_some_and(|call| {
                state(call, &residents.colleague) == Some(LegState::Ringing)
                    && state(call, &residents.agent).is_none()
            })
        })
        .await?;
    colleague_answers(session, &call).await
}

pub(super) async fn confers_and_removes<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let residents = session.residents();
    let (agent, colleague) = (residents.agent.clone(), residents.colleague.clone());
    let step = single_step(residents);
    let call = session.talk().await?;
    let device = agent.device.clone();
    let remove = |number| Command::RemoveParticipant {
        device: agent.device.clone(),
        call: call.clone(),
        participant: number,
    };
    let number = colleague.number.clone();
    session.refused(&agent, remove(number.clone()), Reason::InvalidState).await?;
    session.accepted(&agent, Command::Conference { device, call: call.clone(), step }).await?;
    session
        .until("the colleague's phone rings for the call", |known, residents| {
            is_in(known, &call, &residents.colleague, LegState::Ringing)
        })
        .await?;
    colleague_answers(session, &call).await?;
    session
        .until("the agent owns the conference and is on it", |known, residents| {
            known.calls.get(&call).is_some_and(|call| {
                call.owner.as_ref() == Some(&residents.agent.device)
                    && state(call, &residents.agent) == Some(LegState::Established)
            })
        })
        .await?;
    let others = Command::RemoveParticipant {
        device: colleague.device.clone(),
        call: call.clone(),
        participant: agent.number.clone(),
    };
    session.refused(&colleague, others, Reason::NotPermitted).await?;
    session.accepted(&agent, remove(number)).await?;
    session
        .until("the colleague is out and the agent is on the call", |known, residents| {
            known.calls.get(&call).is_some_and(|call| {
                state(call, &residents.colleague).is_none()
                    && state(call, &residents.agent) == Some(LegState::Established)
            })
        })
        .await
}

pub(super) async fn sends_digits<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let agent = session.residents().agent.clone();
    let digits: Result<crate::model::Digits, _> = "12#".parse();
    let digits = digits.map_err(|_| Miss::failed("digits are sent", "there are none"))?;
    let call = session.ring().await?;
    let send = Command::SendDtmf { device: agent.device.clone(), call: call.clone(), digits };
    session.refused(&agent, send.clone(), Reason::InvalidState).await?;
    session.act(PhoneCommand::Answer(agent.number.clone())).await?;
    session.until_talking(&call).await?;
    session.accepted(&agent, send.clone()).await?;
    if session.bench.offered.hold {
        let hold = Command::Hold { device: agent.device.clone(), call: call.clone() };
        session.accepted(&agent, hold).await?;
        session.accepted(&agent, send).await?;
    }
    Ok(())
}

pub(super) async fn mutes_the_monitored<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let supervisor = session.residents().supervisor.clone();
    session.start(Activity::Coach).await?;
    let call = session.talk().await?;
    session.until_joined(&call, Activity::Coach).await?;
    for muted in [true, false] {
        let (device, call) = (supervisor.device.clone(), call.clone());
        let mute = Command::MuteMonitoredParty { supervisor: device, call: call.clone(), muted };
        session.accepted(&supervisor, mute.clone()).await?;
        session
            .until(format!("muted_by_supervisor of the agent is {muted}"), |known, residents| {
                let call = known.calls.get(&call);
                let leg = call.and_then(|call| call.party_of(&residents.agent.device));
                leg.is_some_and(|leg| leg.muted_by_supervisor == muted)
            })
            .await?;
        session.refused(&supervisor, mute, Reason::InvalidState).await?;
    }
    Ok(())
}

/// By command where that is offered, else at the telephone.
pub(super) async fn colleague_answers<P: Phones>(
    session: &mut Session<'_, P>,
    call: &CallId,
) -> Verdict {
    let colleague = session.residents().colleague.clone();
    if session.bench.offered.answer {
        let device = colleague.device.clone();
        session.accepted(&colleague, Command::Answer { device, call: call.clone() }).await?;
    } else {
        session.act(PhoneCommand::Answer(colleague.number.clone())).await?;
    }
    session
        .until("the colleague's leg is established", |known, residents| {
            is_in(known, call, &residents.colleague, LegState::Established)
        })
        .await
}

fn single_step(residents: &Residents) -> TransferStep {
    TransferStep::SingleStep {
        destination: residents.colleague.number.clone(),
        user_data: UserData::default(),
    }
}

/// The state of a person's leg, unless it has left or supervises.
pub(super) fn state(call: &CallFact, person: &Person) -> Option<LegState> {
    let leg = call.party_of(&person.device)?;
    (leg.role != PartyRole::Supervisor).then_some(leg.state)
}

pub(super) fn is_in(known: &Known, call: &CallId, person: &Person, wanted: LegState) -> bool {
    known.calls.get(call).and_then(|call| state(call, person)) == Some(wanted)
}
