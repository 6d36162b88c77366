//! What is asked of every command, and the settings of a device.

use crate::contract_check::session::{
    Known, Miss, Session, Verdict, ensure, has_its_code, name, refused_as,
};
use crate::contract_check::{Person, Phones};
use crate::model::{
    Activity, CallId, Command, CommandContext, DeviceFact, DeviceId, Reason, Refusal, TransferStep,
    UserDataChange,
};
use crate::telephony::{code_of, proto, refusal_of};
use tokio::time::timeout;
use tonic::{Response, Status};
use tonic_types::StatusExt;

pub(super) async fn refuses_malformed_input<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let good = good_request(session);
    let context = |request_id: &str, on_behalf_of: &str| {
        Some(proto::CommandContext {
            request_id: request_id.into(),
            on_behalf_of: on_behalf_of.into(),
            feature_code: String::new(),
        })
    };
    let user = session.residents().supervisor.user.to_string();
    let long = "x".repeat(129);
    let with = |change: &dyn Fn(&mut proto::StartMonitoringRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let (missing, invalid) = (Reason::MissingParameter, Reason::InvalidInput);
    let bad = [
        (with(&|it| it.context = None), missing, "context"),
        (with(&|it| it.context = context("", &user)), missing, "context.request_id"),
        (with(&|it| it.context = context(&long, &user)), invalid, "context.request_id"),
        (with(&|it| it.context = context("r", "")), missing, "context.on_behalf_of"),
        (with(&|it| it.supervisor.clear()), missing, "supervisor"),
        (with(&|it| it.target.clone_from(&long)), invalid, "target"),
        (with(&|it| it.target = "a\r\nb".into()), invalid, "target"),
        (with(&|it| it.activity = 0), invalid, "activity"),
        (with(&|it| it.activity = 17), invalid, "activity"),
        (with(&|it| it.mode = 0), invalid, "mode"),
        (with(&|it| it.scope = -3), invalid, "scope"),
    ];
    for (request, reason, field) in bad {
        let status = refused(session, request).await?;
        has_its_code(&status)?;
        let refusal = refusal_of(&status);
        let expected = format!("a bad '{field}' is refused as {reason}");
        ensure(refusal.reason == reason, expected, || refused_as(&refusal))?;
        let expected = format!("the text of the refusal names '{field}'");
        ensure(refusal.text().contains(field), expected, || refusal.text().into_owned())?;
    }
    let known = session.snapshot().await?;
    ensure(known.monitors.is_empty(), "nothing has changed", || known.describe())
}

pub(super) async fn refuses_by_reason_and_code<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let absent =
        proto::StartMonitoringRequest { supervisor: String::new(), ..good_request(session) };
    let target = "no-such-device".into();
    let unknown = proto::StartMonitoringRequest { target, ..good_request(session) };
    let target = session.residents().supervisor.device.to_string();
    let own = proto::StartMonitoringRequest { target, ..good_request(session) };
    for (request, reason) in [
        (absent, Reason::MissingParameter),
        (unknown, Reason::NotFound),
        (own, Reason::NotPermitted),
    ] {
        let status = refused(session, request).await?;
        let info = status.get_details_error_info();
        let came = || match &info {
            Some(info) => format!("{:?} with {}/{}", status.code(), info.domain, info.reason),
            None => format!("{:?} without ErrorInfo", status.code()),
        };
        let is_so = status.code() == code_of(reason)
            && info
                .as_ref()
                .is_some_and(|info| info.domain == "undertone" && info.reason == reason.as_str());
        let expected = format!("{:?} with ErrorInfo undertone/{reason}", code_of(reason));
        ensure(is_so, expected, came)?;
    }
    Ok(())
}

pub(super) async fn refuses_what_is_not_there<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let supervisor = session.residents().supervisor.clone();
    let agent = session.residents().agent.clone();
    let call = CallId::from("no-such-call");
    let offered = session.bench.offered.clone();
    let (device, on_call) = (DeviceId::from("no-such-device"), supervisor.device.clone());
    let mut commands = vec![
        start(&supervisor, &device),
        start(&Person { device: device.clone(), ..supervisor.clone() }, &agent.device),
        Command::Hangup { device: on_call.clone(), call: call.clone() },
    ];
    if offered.live_switching {
        let (supervisor, call) = (on_call.clone(), call.clone());
        let activity = Activity::BargeIn;
        commands.push(Command::SwitchMonitoring { supervisor, call, activity });
    }
    if offered.answer {
        commands.push(Command::Answer { device: on_call.clone(), call: call.clone() });
    }
    if offered.hold {
        commands.push(Command::Hold { device: on_call.clone(), call: call.clone() });
        commands.push(Command::Retrieve { device: on_call.clone(), call: call.clone() });
    }
    if offered.do_not_disturb {
        commands.push(Command::SetDoNotDisturb { device: device.clone(), on: true });
    }
    if offered.forwarding {
        commands.push(Command::SetForwarding { device: device.clone(), to: Some("7001".into()) });
    }
    if offered.user_data {
        let change = UserDataChange::Clear;
        commands.push(Command::ChangeUserData { device: on_call, call, change });
    }
    for command in commands {
        session.refused(&supervisor, command, Reason::NotFound).await?;
    }
    Ok(())
}

pub(super) async fn refuses_what_is_not_offered<P: Phones>(
    session: &mut Session<'_, P>,
) -> Verdict {
    let offered = session.bench.offered.clone();
    let agent = session.residents().agent.clone();
    let (device, call) = (agent.device.clone(), CallId::from("no-such-call"));
    let on = |make: fn(DeviceId, CallId) -> Command| make(device.clone(), call.clone());
    let absent = [
        (offered.answer, on(|device, call| Command::Answer { device, call })),
        (offered.hold, on(|device, call| Command::Hold { device, call })),
        (offered.hold, on(|device, call| Command::Retrieve { device, call })),
        (offered.mute, on(|device, call| Command::Mute { device, call, on: true })),
        (offered.clear_call, on(|device, call| Command::ClearCall { device, call })),
        (offered.reject, on(|device, call| Command::Reject { device, call })),
        (
            offered.redirect,
            on(|device, call| Command::Redirect { device, call, destination: "5002".into() }),
        ),
        (
            offered.swap_calls,
            on(|device, call| Command::SwapCalls { device, other: "another".into(), call }),
        ),
        (
            offered.user_data,
            on(|device, call| Command::ChangeUserData {
                device,
                call,
                change: UserDataChange::Clear,
            }),
        ),
        (
            offered.transfers,
            on(|device, call| Command::Transfer { device, call, step: TransferStep::Complete }),
        ),
        (
            offered.conferences,
            on(|device, call| Command::Conference { device, call, step: TransferStep::Complete }),
        ),
        (
            offered.conferences,
            on(|device, call| Command::RemoveParticipant {
                device,
                call,
                participant: "5002".into(),
            }),
        ),
        (offered.do_not_disturb, on(|device, _| Command::SetDoNotDisturb { device, on: true })),
        (
            offered.forwarding,
            on(|device, _| Command::SetForwarding { device, to: Some("7001".into()) }),
        ),
        (
            offered.dial,
            on(|device, _| Command::Dial {
                device,
                destination: "7001".into(),
                user_data: Default::default(),
            }),
        ),
    ];
    let mut all_offered = true;
    for (_, command) in absent.into_iter().filter(|(is_offered, _)| !is_offered) {
        all_offered = false;
        let context = session.context(&agent);
        let expected = format!("{} is refused as Forbidden or NotFound", name(&command));
        match session.send(&context, &command).await {
            Err(refusal) => {
                let is_so = [Reason::Forbidden, Reason::NotFound].contains(&refusal.reason);
                ensure(is_so, expected, || refused_as(&refusal))?;
            }
            Ok(_) => return Err(Miss::failed(expected, "it is accepted")),
        }
    }
    match all_offered {
        true => Err(Miss::Skipped("every command is offered".into())),
        false => Ok(()),
    }
}

pub(super) async fn asks_only_for_calls_that_wait<P: Phones>(
    session: &mut Session<'_, P>,
) -> Verdict {
    let supervisor = session.residents().supervisor.clone();
    let admit = Command::AdmitMonitoring {
        supervisor: supervisor.device.clone(),
        call: "no-such-call".into(),
        admitted: true,
    };
    let context = session.context(&supervisor);
    match session.send(&context, &admit).await {
        Err(refusal) if refusal.reason == Reason::NotFound => Ok(()),
        Err(refusal) if refusal.reason == Reason::Forbidden => {
            session.bench.admits_itself = true;
            Ok(())
        }
        Err(refusal) => Err(Miss::failed("NotFound or Forbidden", refused_as(&refusal))),
        Ok(_) => Err(Miss::failed("NotFound or Forbidden", "it is accepted")),
    }
}

pub(super) async fn answers_only_codes_that_wait<P: Phones>(
    session: &mut Session<'_, P>,
) -> Verdict {
    let supervisor = session.residents().supervisor.clone();
    let device = supervisor.device.clone();
    let answers = [
        start(&supervisor, &session.residents().agent.device.clone()),
        Command::StopMonitoring { supervisor: device.clone() },
    ];
    for command in answers {
        let mut context = session.context(&supervisor);
        context.feature_code = Some("no-such-code".into());
        session.refused_in(&context, &command, Reason::InvalidState).await?;
    }
    let refusal = Refusal::new(Reason::NotPermitted, "No.");
    let command = Command::RefuseFeatureCode { device, code: "no-such-code".into(), refusal };
    let context = session.context(&supervisor);
    session.refused_in(&context, &command, Reason::InvalidState).await?;
    let known = session.snapshot().await?;
    ensure(known.monitors.is_empty(), "nothing has changed", || known.describe())
}

pub(super) async fn does_a_request_id_once<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let supervisor = session.residents().supervisor.clone();
    let once = session.context(&supervisor);
    let arm = start(&supervisor, &session.residents().agent.device.clone());
    let first = session.accepted_in(&once, &arm).await?;
    session.stop(&supervisor).await?;
    let second = session.accepted_in(&once, &arm).await?;
    ensure(first == second, format!("the revision in the answer is again {first}"), || {
        second.to_string()
    })?;
    session.catch_up().await?;
    let is_once = !session.known().monitors.contains_key(&supervisor.device);
    ensure(is_once, "StartMonitoring is not done again under its request id", || {
        session.known().describe()
    })?;

    let stop = Command::StopMonitoring { supervisor: supervisor.device.clone() };
    let in_vain = session.context(&supervisor);
    let refusal = session.refused_in(&in_vain, &stop, Reason::InvalidState).await?;
    session.start(Activity::Coach).await?;
    let again = session.refused_in(&in_vain, &stop, Reason::InvalidState).await?;
    ensure(again == refusal, format!("again: {refusal}"), || again.to_string())?;
    session.until_armed().await
}

pub(super) async fn refuses_another_command_under_an_id<P: Phones>(
    session: &mut Session<'_, P>,
) -> Verdict {
    let supervisor = session.residents().supervisor.clone();
    let arm = start(&supervisor, &session.residents().agent.device.clone());
    let context = session.context(&supervisor);
    session.accepted_in(&context, &arm).await?;
    let stop = Command::StopMonitoring { supervisor: supervisor.device };
    session.refused_in(&context, &stop, Reason::InvalidInput).await.map(|_| ())
}

pub(super) async fn keeps_users_request_ids_apart<P: Phones>(
    session: &mut Session<'_, P>,
) -> Verdict {
    let residents = session.residents().clone();
    let (supervisor, second) = (&residents.supervisor, &residents.second);
    if supervisor.user == second.user {
        return Err(Miss::Skipped("both supervisors are one user: see --second".into()));
    }
    let first = session.context(supervisor);
    let same = CommandContext { user: Some(second.user.clone()), ..first.clone() };
    session.accepted_in(&first, &start(supervisor, &residents.agent.device)).await?;
    let command = start(second, &residents.colleague.device);
    if let Err(refusal) = session.send(&same, &command).await {
        let (user, other) = (&second.user, &supervisor.user);
        let expected = format!("user {user} may use a request id that user {other} has used");
        return Err(Miss::failed(expected, refused_as(&refusal)));
    }
    let expected = "both users' commands under the same request id are done: two monitors";
    session
        .until(expected, |known, residents| {
            known.is_armed(&residents.supervisor) && known.is_armed(&residents.second)
        })
        .await
}

pub(super) async fn answers_with_the_revision_before<P: Phones>(
    session: &mut Session<'_, P>,
) -> Verdict {
    let supervisor = session.residents().supervisor.clone();
    let arm = start(&supervisor, &session.residents().agent.device.clone());
    let stop = Command::StopMonitoring { supervisor: supervisor.device.clone() };
    for (command, is_armed) in [(arm, true), (stop, false)] {
        let told = session.watch.revision;
        let context = session.context(&supervisor);
        let answered = session.accepted_in(&context, &command).await?;
        let name = name(&command);
        let expected = format!(
            "{name} is answered with revision {told}, which was told before, or a higher one"
        );
        ensure(answered >= told, expected, || format!("revision {answered}"))?;
        let expected = format!("what comes of {name} is reported");
        session
            .until(expected, |known, residents| known.is_armed(&residents.supervisor) == is_armed)
            .await?;
        let revision = session.watch.said;
        let expected = format!(
            "what comes of {name}, which was answered with revision {answered}, has a higher one"
        );
        ensure(revision > answered, expected, || format!("revision {revision}"))?;
    }
    Ok(())
}

pub(super) async fn sets_do_not_disturb<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let agent = session.residents().agent.clone();
    for on in [true, false] {
        let device = agent.device.clone();
        let expected = DeviceFact { do_not_disturb: on, ..device_now(session, &agent)? };
        session.accepted(&agent, Command::SetDoNotDisturb { device, on }).await?;
        until_device(session, expected).await?;
    }
    Ok(())
}

pub(super) async fn keeps_do_not_disturb<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let residents = session.residents();
    let (agent, colleague) = (residents.agent.clone(), residents.colleague.clone());
    let customer = residents.customer.clone();
    let (device, before) = (agent.device.clone(), device_now(session, &agent)?);
    let set = |on| Command::SetDoNotDisturb { device: device.clone(), on };
    session.accepted(&agent, set(true)).await?;
    until_device(session, DeviceFact { do_not_disturb: true, ..before.clone() }).await?;
    session.try_to_call(customer.clone(), agent.number.clone()).await?;
    let is_quiet = |known: &Known| {
        let expected = "the phone of the device with do-not-disturb does not ring";
        ensure(!known.rung.contains(&device), expected, || "it does".into())
    };
    is_quiet(&session.snapshot().await?)?;
    // The same telephone's next call is told after whatever came of this one.
    let call = session.ring_at(customer, &colleague).await?;
    session.hang_up(&call).await?;
    is_quiet(session.known())?;
    session.accepted(&agent, set(false)).await?;
    until_device(session, before).await?;
    session.ring().await.map(|_| ())
}

pub(super) async fn sets_forwarding<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let agent = session.residents().agent.clone();
    let customer = session.residents().customer.clone();
    for to in [Some(customer), None] {
        let device = agent.device.clone();
        let expected = DeviceFact { forward_to: to.clone(), ..device_now(session, &agent)? };
        session.accepted(&agent, Command::SetForwarding { device, to }).await?;
        until_device(session, expected).await?;
    }
    Ok(())
}

fn device_now<P: Phones>(session: &Session<'_, P>, person: &Person) -> Verdict<DeviceFact> {
    let known = session.known().devices.get(&person.device).cloned();
    known.ok_or_else(|| Miss::failed("the device is there", "it is not"))
}

async fn until_device<P: Phones>(session: &mut Session<'_, P>, fact: DeviceFact) -> Verdict {
    let expected = format!(
        "device {} is reported with do_not_disturb {} and forward_to '{}'",
        fact.number,
        fact.do_not_disturb,
        fact.forward_to.as_ref().map_or("", |number| number.as_str())
    );
    session.until(expected, |known, _| known.devices.get(&fact.id) == Some(&fact)).await
}

fn start(supervisor: &Person, target: &DeviceId) -> Command {
    Command::StartMonitoring {
        supervisor: supervisor.device.clone(),
        target: target.clone(),
        activity: Activity::Coach,
        mode: crate::model::Mode::AllCalls,
        scope: crate::model::Scope::Call,
        confirm_joins: false,
        agent_side_only: false,
    }
}

fn good_request<P: Phones>(session: &mut Session<'_, P>) -> proto::StartMonitoringRequest {
    let supervisor = session.residents().supervisor.clone();
    let context = session.context(&supervisor);
    proto::StartMonitoringRequest {
        context: Some(proto::CommandContext {
            request_id: context.request_id.to_string(),
            on_behalf_of: supervisor.user.to_string(),
            feature_code: String::new(),
        }),
        supervisor: supervisor.device.to_string(),
        target: session.residents().agent.device.to_string(),
        activity: proto::Activity::Coach as i32,
        mode: proto::Mode::AllCalls as i32,
        scope: proto::Scope::Call as i32,
        confirm_joins: false,
        agent_side_only: false,
    }
}

async fn refused<P: Phones>(
    session: &Session<'_, P>,
    request: proto::StartMonitoringRequest,
) -> Verdict<Status> {
    let mut client = session.bench.client.clone();
    let expected = "StartMonitoring is refused";
    match timeout(session.bench.patience, client.start_monitoring(request)).await {
        Ok(Err(status)) => Ok(status),
        Ok(Ok(Response { .. })) => Err(Miss::failed(expected, "it is accepted")),
        Err(_) => Err(Miss::failed(expected, "it is not answered")),
    }
}
