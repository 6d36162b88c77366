//! Describe and Watch.

use super::ACTIVITIES;
use crate::contract_check::Phones;
use crate::contract_check::session::{Miss, Session, Verdict, Watch, ensure};
use crate::model::{Activity, Fact, Mode, Scope};
use crate::telephony::{WatchItem, proto};
use tokio::time::timeout;

pub(super) fn describes_itself<P: Phones>(session: &Session<'_, P>) -> Verdict {
    let offered = &session.bench.offered;
    ensure(!offered.backend.is_empty(), "a name", || "none".into())?;
    for activity in ACTIVITIES {
        ensure(offered.activities.contains(&activity), format!("{activity} is offered"), || {
            format!("{:?}", offered.activities)
        })?;
    }
    ensure(offered.modes.contains(&Mode::AllCalls), "AllCalls is offered", || {
        format!("{:?}", offered.modes)
    })?;
    ensure(offered.scopes.contains(&Scope::Call), "scope Call is offered", || {
        format!("{:?}", offered.scopes)
    })
}

pub(super) async fn begins_with_the_whole<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let mut watch = fresh(session, 0, "").await?;
    let first = watch.next().await?;
    let WatchItem::SnapshotBegin { instance } = &first else {
        return Err(Miss::failed("SnapshotBegin comes first", said(&first)));
    };
    ensure(!instance.is_empty(), "SnapshotBegin names an instance", || "it is empty".into())?;
    let mut told = Vec::new();
    loop {
        match watch.next().await? {
            WatchItem::Fact(Fact::SnapshotComplete) => break,
            WatchItem::Fact(Fact::Device(device)) => told.push(device.id),
            WatchItem::Fact(_) | WatchItem::Heartbeat(_) => {}
            again @ WatchItem::SnapshotBegin { .. } => {
                return Err(Miss::failed("one snapshot", said(&again)));
            }
        }
        ensure(watch.revision == 0, "what is in a snapshot has revision 0", || {
            format!("revision {}", watch.revision)
        })?;
    }
    ensure(watch.revision > 0, "SnapshotComplete has a revision from 1", || "0".into())?;
    let residents = session.residents();
    for person in [&residents.supervisor, &residents.second, &residents.agent, &residents.colleague]
    {
        let times = told.iter().filter(|device| **device == person.device).count();
        let expected = format!("device {} is told once", person.device);
        ensure(times == 1, expected, || format!("{times} times"))?;
    }
    Ok(())
}

pub(super) async fn resumes_after_a_revision<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let mut watch = fresh(session, 0, "").await?;
    watch.until_complete().await?;
    let (instance, revision) = (watch.instance.clone(), watch.revision);
    drop(watch);
    session.start(Activity::Coach).await?;
    session.until_armed().await?;
    let mut resumed = fresh(session, revision, &instance).await?;
    match resumed.next().await? {
        WatchItem::Heartbeat(_) => {
            let expected = format!("the Heartbeat has revision {revision}, which was asked for");
            ensure(resumed.said == revision, expected, || format!("revision {}", resumed.said))?;
        }
        WatchItem::SnapshotBegin { .. } => {
            let why = "the backend keeps no history: a watch always begins with a snapshot";
            return Err(Miss::Skipped(why.into()));
        }
        first @ WatchItem::Fact(_) => {
            return Err(Miss::failed("a Heartbeat comes first", said(&first)));
        }
    }
    let supervisor = session.residents().supervisor.device.clone();
    let news = async {
        loop {
            match resumed.next().await? {
                WatchItem::Heartbeat(_) => {}
                told @ (WatchItem::Fact(_) | WatchItem::SnapshotBegin { .. }) => return Ok(told),
            }
        }
    };
    let told = timeout(session.bench.patience, news).await.unwrap_or_else(|_| {
        Err(Miss::failed("the monitor that was armed since is told", "Heartbeats alone come"))
    })?;
    let is_news = matches!(&told, WatchItem::Fact(Fact::Monitor(monitor)) if monitor.supervisor == supervisor);
    ensure(is_news, "the monitor that was armed since is told next", || said(&told))?;
    ensure(resumed.revision > revision, format!("a revision above {revision}"), || {
        resumed.revision.to_string()
    })
}

pub(super) async fn begins_anew_elsewhere<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let (instance, revision) = (session.watch.instance.clone(), session.watch.revision);
    let another = format!("not-{instance}");
    for (revision, instance, asked) in [
        (revision, another.as_str(), "another instance"),
        (u64::MAX, instance.as_str(), "a revision that is still to come"),
        (0, instance.as_str(), "revision 0"),
    ] {
        let mut watch = fresh(session, revision, instance).await?;
        let first = watch.next().await?;
        let is_snapshot = matches!(first, WatchItem::SnapshotBegin { .. });
        ensure(is_snapshot, format!("SnapshotBegin for {asked}"), || said(&first))?;
    }
    Ok(())
}

pub(super) async fn beats_when_nothing_happens<P: Phones>(session: &mut Session<'_, P>) -> Verdict {
    let revision = session.watch.revision;
    for _ in 0..2 {
        let beat = session.watch.next().await?;
        ensure(matches!(beat, WatchItem::Heartbeat(_)), "a Heartbeat", || said(&beat))?;
        beats_at(session, revision)?;
    }
    session.start(Activity::Coach).await?;
    session.until_armed().await?;
    let mut told = session.watch.revision;
    while !matches!(session.watch.next().await?, WatchItem::Heartbeat(_)) {
        told = session.watch.revision;
    }
    beats_at(session, told)?;
    // The shortest that may be asked for: less is taken for it.
    let request = proto::WatchRequest { heartbeat_ms: 1, ..proto::WatchRequest::default() };
    let mut client = session.bench.client.clone();
    let expected = "a watch with heartbeat_ms 1 is accepted";
    match timeout(session.bench.patience, client.watch(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(Miss::failed(expected, status.message())),
        Err(_) => Err(Miss::failed(expected, "it is not answered")),
    }
}

/// A watch that breaks now is resumed after the revision of this Heartbeat: a lower one tells again
/// what was told, a higher one loses what was not.
fn beats_at<P: Phones>(session: &Session<'_, P>, told: u64) -> Verdict {
    let expected = format!("the Heartbeat has revision {told}, which was told last");
    ensure(session.watch.said == told, expected, || format!("revision {}", session.watch.said))
}

async fn fresh<P: Phones>(
    session: &Session<'_, P>,
    after_revision: u64,
    instance: &str,
) -> Verdict<Watch> {
    Watch::open(&session.bench.client, after_revision, instance, session.bench.patience).await
}

fn said(item: &WatchItem) -> String {
    match item {
        WatchItem::SnapshotBegin { .. } => "SnapshotBegin".into(),
        WatchItem::Heartbeat(_) => "a Heartbeat".into(),
        WatchItem::Fact(fact) => {
            let said = format!("{fact:?}");
            said.split(['(', ' ']).next().unwrap_or_default().to_owned()
        }
    }
}
