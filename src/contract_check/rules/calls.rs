//! Calls without a monitor: how they end, and what their parties may ask by command.

use crate::contract_check::Phones;
use crate::contract_check::session::{Known, Miss, Session, Verdict, ensure};
use crate::model::{
    Activity, CallId, Command, LegState, PartyFact, PartyRole, Reason, TransferStep, UserData,
    UserDataChange,
};
use crate::telephony::phones::PhoneCommand;

pub(super) async fn ends_a_call_once<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let call = session.talk().await?;
    session.hang_up(&call).await?;
    let over: Vec<_> = session.known().over.iter().filter(|fact| fact.id == call).collect();
    ensure(over.len() == 1, "it is told once that the call is over", || {
        format!("{} times", over.len())
    })?;
    let parties = over.first().map_or(0, |fact| fact.parties.len());
    let expected = "the last fact of the call has all its parties";
    ensure(parties >= 2, expected, || format!("{parties} parties"))?;
    let known = session.snapshot().await?;
    let expected = "the call that is over is in no snapshot";
    ensure(known.calls.is_empty(), expected, || known.describe())?;
    let again = known.over.iter().find(|fact| fact.id == call);
    ensure(again.is_none(), expected, || {
        format!("a later snapshot tells call {call}, every party Released")
    })
}

pub(super) async fn answers_by_command<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let agent = session.residents().agent.clone();
    let call = session.ring().await?;
    let (device, ringing) = (agent.device.clone(), call.clone());
    session.accepted(&agent, Command::Answer { device, call: ringing }).await?;
    session.until_talking(&call).await
}

pub(super) async fn hangs_up_by_command<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let agent = session.residents().agent.clone();
    let call = session.talk().await?;
    let device = agent.device.clone();
    session.accepted(&agent, Command::Hangup { device, call: call.clone() }).await?;
    session
        .until("the agent's leg is released, or the call is over", |known, residents| {
            let call = known.calls.get(&call);
            call.is_none_or(|call| call.party_of(&residents.agent.device).is_none())
        })
        .await
}

pub(super) async fn holds_and_retrieves<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let agent = session.residents().agent.clone();
    let call = session.talk().await?;
    let (device, on) = (agent.device.clone(), call.clone());
    let hold = Command::Hold { device: device.clone(), call: on.clone() };
    let retrieve = Command::Retrieve { device, call: on };
    session.refused(&agent, retrieve.clone(), Reason::InvalidState).await?;
    session.accepted(&agent, hold.clone()).await?;
    until_leg(session, &call, "Held", |leg| leg.state == LegState::Held).await?;
    session.refused(&agent, hold, Reason::InvalidState).await?;
    session.accepted(&agent, retrieve).await?;
    until_leg(session, &call, "Established", |leg| leg.state == LegState::Established).await
}

pub(super) async fn mutes<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let agent = session.residents().agent.clone();
    let call = session.ring().await?;
    let mute = |on| Command::Mute { device: agent.device.clone(), call: call.clone(), on };
    session.refused(&agent, mute(true), Reason::InvalidState).await?;
    session.act(PhoneCommand::Answer(agent.number.clone())).await?;
    session.until_talking(&call).await?;
    session.refused(&agent, mute(false), Reason::InvalidState).await?;
    session.accepted(&agent, mute(true)).await?;
    until_leg(session, &call, "muted", |leg| leg.muted).await?;
    session.refused(&agent, mute(true), Reason::InvalidState).await?;
    session.accepted(&agent, mute(false)).await?;
    until_leg(session, &call, "not muted", |leg| !leg.muted).await
}

pub(super) async fn dials<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let agent = session.residents().agent.clone();
    let customer = session.residents().customer.clone();
    let has_data = session.bench.offered.user_data;
    let pairs = has_data.then(|| ("Topic".to_owned(), "Contract".to_owned()));
    let user_data =
        UserData::new(pairs).map_err(|_| Miss::failed("one pair fits", "it does not"))?;
    let (device, destination) = (agent.device.clone(), customer.clone());
    session.accepted(&agent, Command::Dial { device, destination, user_data }).await?;
    session
        .until("there is a call of the agent's device to that number", |known, residents| {
            known.calls.values().any(|call| {
                call.party_of(&residents.agent.device).is_some()
                    && call.dnis == residents.customer
                    && (!has_data || call.user_data.get("Topic") == Some("Contract"))
            })
        })
        .await
}

pub(super) async fn clears_a_call<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let agent = session.residents().agent.clone();
    session.start(Activity::Coach).await?;
    let call = session.talk().await?;
    session.until_joined(&call, Activity::Coach).await?;
    let device = agent.device.clone();
    session.accepted(&agent, Command::ClearCall { device, call: call.clone() }).await?;
    session.until("the call is over", |known, _| !known.calls.contains_key(&call)).await?;
    session.until_armed().await
}

pub(super) async fn rejects_by_command<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let agent = session.residents().agent.clone();
    let reject =
        |call: &CallId| Command::Reject { device: agent.device.clone(), call: call.clone() };
    let call = session.talk().await?;
    session.refused(&agent, reject(&call), Reason::InvalidState).await?;
    session.hang_up(&call).await?;
    let call = session.ring().await?;
    session.accepted(&agent, reject(&call)).await?;
    session.until("the call is over", |known, _| !known.calls.contains_key(&call)).await
}

pub(super) async fn redirects_by_command<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let residents = session.residents();
    let (agent, colleague) = (residents.agent.clone(), residents.colleague.clone());
    let call = session.ring().await?;
    let redirect = Command::Redirect {
        device: agent.device.clone(),
        call: call.clone(),
        destination: colleague.number.clone(),
    };
    session.accepted(&agent, redirect).await?;
    session
        .until("the colleague's phone rings and the agent's does not", |known, residents| {
            known.calls.get(&call).is_some_and(|call| {
                let leg = call.party_of(&residents.colleague.device);
                leg.is_some_and(|leg| leg.state == LegState::Ringing)
                    && call.party_of(&residents.agent.device).is_none()
            })
        })
        .await?;
    session.hang_up(&call).await
}

pub(super) async fn changes_user_data<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let call = session.talk().await?;
    let set = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let data =
            UserData::new(pairs).map_err(|_| Miss::failed("two pairs fit", "they do not"))?;
        Ok::<_, Miss>(UserDataChange::Set(data))
    };
    change(session, &call, set(&[("Account", "17"), ("Topic", "Contract")])?).await?;
    until_data(session, &call, &[("Account", "17"), ("Topic", "Contract")]).await?;
    change(session, &call, set(&[("Account", "18"), ("Language", "de")])?).await?;
    let merged = [("Account", "18"), ("Language", "de"), ("Topic", "Contract")];
    until_data(session, &call, &merged).await?;
    change(session, &call, UserDataChange::Delete("Account".into())).await?;
    until_data(session, &call, &[("Language", "de"), ("Topic", "Contract")]).await?;
    change(session, &call, UserDataChange::Delete("Account".into())).await?;
    change(session, &call, UserDataChange::Clear).await?;
    until_data(session, &call, &[]).await
}

pub(super) async fn bounds_user_data<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let call = session.talk().await?;
    let agent = session.residents().agent.clone();
    let keys = |count: usize, prefix: &str| {
        let pairs = (0..count).map(|number| (format!("{prefix}{number}"), "x".to_owned()));
        let data = UserData::new(pairs).map_err(|_| Miss::failed("the keys fit", "they do not"))?;
        Ok::<_, Miss>(UserDataChange::Set(data))
    };
    change(session, &call, keys(UserData::MOST_KEYS, "a")?).await?;
    let one_more = Command::ChangeUserData {
        device: agent.device.clone(),
        call: call.clone(),
        change: keys(1, "b")?,
    };
    session.refused(&agent, one_more, Reason::InvalidInput).await?;
    session
        .until("the call has its 400 keys", |known, _| {
            let call = known.calls.get(&call);
            call.is_some_and(|call| {
                call.user_data.pairs().count() == UserData::MOST_KEYS
                    && call.user_data.get("b0").is_none()
            })
        })
        .await
}

pub(super) async fn rings_on_where_it_can_not_go<P: Phones>(
    session: &mut Session<'_, P>,
) -> Verdict {
    let agent = session.residents().agent.clone();
    let call = session.ring().await?;
    let redirect = Command::Redirect {
        device: agent.device.clone(),
        call: call.clone(),
        destination: agent.number.clone(),
    };
    session.refused(&agent, redirect, Reason::InvalidState).await?;
    let known = session.snapshot().await?;
    let rings = known.call_of(&agent, LegState::Ringing).as_ref() == Some(&call);
    ensure(rings, "the agent's phone rings on", || known.describe())?;
    session.act(PhoneCommand::Answer(agent.number)).await?;
    session.until_talking(&call).await
}

pub(super) async fn swaps_with_no_call<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let agent = session.residents().agent.clone();
    let call = session.talk().await?;
    let (device, other) = (agent.device.clone(), "no-such-call".into());
    let swap = Command::SwapCalls { device, call: call.clone(), other };
    session.refused(&agent, swap, Reason::NotFound).await?;
    let known = session.snapshot().await?;
    let talks = known.call_of(&agent, LegState::Established).as_ref() == Some(&call);
    ensure(talks, "the agent's leg stays established", || known.describe())
}

pub(super) async fn keeps_supervisors_off<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let residents = session.residents();
    let (supervisor, destination) =
        (residents.supervisor.clone(), residents.colleague.number.clone());
    session.start(Activity::Coach).await?;
    let call = session.talk().await?;
    session.until_joined(&call, Activity::Coach).await?;
    let before = session.snapshot().await?.calls;
    let offered = session.bench.offered.clone();
    let (other, change) = (call.clone(), UserDataChange::Clear);
    let digits: Result<crate::model::Digits, _> = "1".parse();
    let digits = digits.map_err(|_| Miss::failed("a digit is sent", "there is none"))?;
    let user_data = UserData::default();
    let step = TransferStep::SingleStep { destination: destination.clone(), user_data };
    let into = step.clone();
    let (device, call) = (|| supervisor.device.clone(), || call.clone());
    let commands = [
        (offered.clear_call, Command::ClearCall { device: device(), call: call() }),
        (offered.reject, Command::Reject { device: device(), call: call() }),
        (offered.redirect, Command::Redirect { device: device(), call: call(), destination }),
        (offered.hold, Command::Hold { device: device(), call: call() }),
        (offered.hold, Command::Retrieve { device: device(), call: call() }),
        (offered.swap_calls, Command::SwapCalls { device: device(), call: call(), other }),
        (offered.mute, Command::Mute { device: device(), call: call(), on: true }),
        (offered.dtmf, Command::SendDtmf { device: device(), call: call(), digits }),
        (offered.transfers, Command::Transfer { device: device(), call: call(), step }),
        (offered.conferences, Command::Conference { device: device(), call: call(), step: into }),
        (offered.user_data, Command::ChangeUserData { device: device(), call: call(), change }),
    ];
    for (_, command) in commands.into_iter().filter(|(is_offered, _)| *is_offered) {
        session.refused(&supervisor, command, Reason::Forbidden).await?;
    }
    let after = session.snapshot().await?.calls;
    let is_same = before.keys().eq(after.keys())
        && before.values().zip(after.values()).all(|(one, two)| one.is_same_but_quality(two));
    ensure(is_same, "nothing of the call has changed", || "it has".to_owned())
}

async fn change<P: Phones>(
    session: &mut Session<'_, P>,
    call: &CallId,
    change: UserDataChange,
) -> Verdict {
    let agent = session.residents().agent.clone();
    let device = agent.device.clone();
    session.accepted(&agent, Command::ChangeUserData { device, call: call.clone(), change }).await
}

async fn until_data<P: Phones>(
    session: &mut Session<'_, P>,
    call: &CallId,
    data: &[(&str, &str)],
) -> Verdict {
    session
        .until(format!("the data of the call is {data:?}"), |known, _| {
            let known = known.calls.get(call);
            known.is_some_and(|known| known.user_data.pairs().eq(data.iter().copied()))
        })
        .await
}

/// Waits until the agent's leg of the call is as expected.
async fn until_leg<P: Phones>(
    session: &mut Session<'_, P>,
    call: &CallId,
    expected: &str,
    is_so: impl Fn(&PartyFact) -> bool,
) -> Verdict {
    session
        .until(format!("the agent's leg is {expected}"), |known: &Known, residents| {
            let call = known.calls.get(call);
            let leg = call.and_then(|call| call.party_of(&residents.agent.device));
            leg.is_some_and(|leg| leg.role == PartyRole::Agent && is_so(leg))
        })
        .await
}
