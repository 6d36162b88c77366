//! What happened, in order: shown as it goes, and kept for `--json`.

use super::event_text::{plain, short, text};
use super::held;
use crate::demo::phone::{Phone, Traced};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const DIM: &str = "2";
const BOLD: &str = "1";
const CYAN: &str = "36";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";

/// One thing that happened.
#[derive(Clone, Debug)]
pub(super) struct TimelineEntry {
    at: Instant,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Rest { user: String, path: String, body: Value, status: u16, reply: Value },
    CometD { user: String, message: Value },
    Sip { phone: String, sent: bool, line: String },
}

impl TimelineEntry {
    pub(super) fn rest(
        at: Instant,
        user: &str,
        path: &str,
        body: &Value,
        status: u16,
        reply: &Value,
    ) -> TimelineEntry {
        let what = What::Rest {
            user: user.into(),
            path: path.into(),
            body: body.clone(),
            status,
            reply: reply.clone(),
        };
        TimelineEntry { at, what }
    }

    pub(super) fn cometd(at: Instant, user: &str, message: &Value) -> TimelineEntry {
        let what = What::CometD { user: user.into(), message: message.clone() };
        TimelineEntry { at, what }
    }
}

/// Shared by all parts of a story that have something to tell.
#[derive(Clone)]
pub(super) struct Timeline {
    start: Instant,
    shown: bool,
    verbose: bool,
    colours: bool,
    waiting: Arc<Mutex<Vec<TimelineEntry>>>,
    told: Arc<Mutex<Vec<TimelineEntry>>>,
}

impl Timeline {
    /// With `shown` false nothing is written; with `verbose` everything whole.
    pub(super) fn new(start: Instant, shown: bool, verbose: bool) -> Timeline {
        Timeline {
            start,
            shown,
            verbose,
            colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            waiting: Arc::default(),
            told: Arc::default(),
        }
    }

    pub(super) fn add(&self, entry: TimelineEntry) {
        held(&self.waiting).push(entry);
    }

    /// The milestones among a phone's messages since then.
    pub(super) fn add_sip(&self, role: &str, phone: &Phone, since: Instant) {
        let milestones =
            phone.trace().into_iter().filter(|traced| traced.at >= since && is_milestone(traced));
        held(&self.waiting).extend(milestones.map(|traced| TimelineEntry {
            at: traced.at,
            what: What::Sip { phone: role.into(), sent: traced.sent, line: describe(&traced) },
        }));
    }

    /// Shows what has come since the last time, in order.
    pub(super) fn tell(&self) {
        let mut waiting = std::mem::take(&mut *held(&self.waiting));
        waiting.sort_by_key(|entry| entry.at);
        for (colour, line) in self.lines(&waiting) {
            self.line(colour, &line);
        }
        held(&self.told).extend(waiting);
    }

    /// What is written of these, each line with its colour.
    fn lines(&self, entries: &[TimelineEntry]) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        for (number, entry) in entries.iter().enumerate() {
            let at = format!("{:>8.3}", self.since_start(entry.at) / 1000.0);
            if self.verbose {
                let (colour, whole) = entry.what.whole();
                let mut margin = at;
                for line in whole {
                    lines.push((colour, format!("{margin}{line}")));
                    margin = " ".repeat(8);
                }
            } else if !is_challenge(entries, number) {
                let (colour, line) = entry.what.line();
                lines.push((colour, format!("{at}  {line}")));
            }
        }
        lines
    }

    pub(super) fn title(&self, text: &str) {
        self.line("", "");
        self.line(BOLD, text);
    }

    pub(super) fn text(&self, text: &str) {
        self.line("", text);
    }

    pub(super) fn good(&self, text: &str) {
        self.line(GREEN, text);
    }

    pub(super) fn bad(&self, text: &str) {
        self.line(RED, text);
    }

    fn line(&self, colour: &str, text: &str) {
        if !self.shown {
            return;
        }
        let mut out = std::io::stdout().lock();
        // A closed pipe means that the reader wants no more.
        let _ = match self.colours && !colour.is_empty() {
            true => writeln!(out, "\x1b[{colour}m{text}\x1b[0m"),
            false => writeln!(out, "{text}"),
        };
    }

    /// Milliseconds since the demo began.
    pub(super) fn since_start(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.start).as_secs_f64() * 1000.0
    }

    /// Every REST request with its reply, for `--json`.
    pub(super) fn rest(&self) -> Vec<Value> {
        let told = held(&self.told);
        let rest = told.iter().filter_map(|entry| match &entry.what {
            What::Rest { user, path, body, status, reply } => Some(json!({
                "at_ms": self.since_start(entry.at).round(), "user": user, "method": "POST",
                "path": path, "request": body, "status": status, "reply": reply,
            })),
            What::CometD { .. } | What::Sip { .. } => None,
        });
        rest.collect()
    }

    /// Every CometD message as received, for `--json`.
    pub(super) fn cometd(&self) -> Vec<Value> {
        let told = held(&self.told);
        let messages = told.iter().filter_map(|entry| match &entry.what {
            What::CometD { user, message } => Some(json!({
                "at_ms": self.since_start(entry.at).round(), "user": user, "message": message,
            })),
            What::Rest { .. } | What::Sip { .. } => None,
        });
        messages.collect()
    }
}

impl What {
    /// All of it, with its colour.
    fn whole(&self) -> (&'static str, Vec<String>) {
        match self {
            What::Rest { user, path, body, status, reply } => {
                let lines = [
                    format!("  REST    {user} ▶ POST {path}"),
                    format!("          {body}"),
                    format!("        ◀ {status} {reply}"),
                ];
                (CYAN, lines.into())
            }
            What::CometD { user, message } => {
                (YELLOW, vec![format!("  CometD  {user} ◀ {message}")])
            }
            What::Sip { phone, sent, line } => {
                (DIM, vec![format!("  SIP     {phone} {} {line}", way(*sent))])
            }
        }
    }

    /// In one line, with its colour.
    fn line(&self) -> (&'static str, String) {
        match self {
            What::Rest { user, path, body, status, reply } => {
                let outcome = match reply["statusMessage"].as_str() {
                    Some(message) => format!("{status} {}", plain(message)),
                    None => status.to_string(),
                };
                let (path, asked) = (shortened(path), asked(body));
                (CYAN, format!("REST    {user} ▶ POST {path}  {asked}  ◀ {outcome}"))
            }
            What::CometD { user, message } => {
                (YELLOW, format!("CometD  {user} ◀ {}", text(&message["data"])))
            }
            What::Sip { phone, sent, line } => {
                let line = match line.split_once("  [") {
                    Some((line, _)) => format!("{line}, to be answered at once"),
                    None => line.clone(),
                };
                (DIM, format!("SIP     {phone} {} {line}", way(*sent)))
            }
        }
    }
}

fn way(sent: bool) -> char {
    if sent { '▶' } else { '◀' }
}

/// `Coach targetDeviceUri=…/devices/9c14cad7`
fn asked(body: &Value) -> String {
    let mut asked = body["operationName"].as_str().unwrap_or("?").to_owned();
    let parameters = body.as_object().into_iter().flatten();
    for (name, value) in parameters.filter(|(name, _)| *name != "operationName") {
        let value = match value {
            Value::String(text) if text.contains("://") => shortened(text),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        asked += &format!(" {name}={value}");
    }
    plain(&asked)
}

/// A path or URI without what all have in common, its ids by their beginning.
fn shortened(uri: &str) -> String {
    let path = uri.split_once("/api/v2").map_or(uri, |(_, path)| path);
    let steps: Vec<String> = path.split('/').map(short).collect();
    format!("…{}", steps.join("/"))
}

/// A challenge, or the request that it has answered: the same one comes again, with a password.
fn is_challenge(entries: &[TimelineEntry], number: usize) -> bool {
    let sip = |entry: &TimelineEntry| match &entry.what {
        What::Sip { phone, sent, line } => Some((phone.clone(), *sent, line.clone())),
        What::Rest { .. } | What::CometD { .. } => None,
    };
    let is_refusal = |line: &str| line.starts_with("401 ") || line.starts_with("407 ");
    let Some((phone, sent, line)) = entries.get(number).and_then(sip) else {
        return false;
    };
    let mut later = entries.iter().skip(number + 1).filter_map(sip);
    let next = later.find(|(other, _, _)| *other == phone);
    match sent {
        false => is_refusal(&line),
        true => next.is_some_and(|(_, sent, next)| !sent && is_refusal(&next)),
    }
}

fn is_milestone(traced: &Traced) -> bool {
    let line = &traced.line;
    let request =
        ["INVITE ", "BYE ", "CANCEL ", "NOTIFY "].iter().any(|method| line.starts_with(method));
    let answer = line.ends_with("(INVITE)") && !line.starts_with("100");
    request || answer || line == "200 OK (REGISTER)"
}

/// The line, with what an INVITE asks the phone to do by itself.
fn describe(traced: &Traced) -> String {
    let fields = traced.text.lines().filter(|field| {
        let name = field.split(':').next().unwrap_or_default().to_ascii_lowercase();
        traced.line.starts_with("INVITE")
            && ["answer-mode", "call-info", "alert-info"].contains(&name.as_str())
    });
    fields.fold(traced.line.clone(), |line, field| format!("{line}  [{}]", field.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn written(verbose: bool, entries: &[(u64, What)]) -> Vec<String> {
        let start = crate::clock::instant();
        let timeline = Timeline::new(start, false, verbose);
        let entry = |(at, what): &(u64, What)| TimelineEntry {
            at: start + Duration::from_millis(*at),
            what: what.clone(),
        };
        let entries: Vec<TimelineEntry> = entries.iter().map(entry).collect();
        timeline.lines(&entries).into_iter().map(|(_, line)| line).collect()
    }

    fn sip(phone: &str, sent: bool, line: &str) -> What {
        What::Sip { phone: phone.to_owned(), sent, line: line.to_owned() }
    }

    fn coach(status: u16, reply: Value) -> What {
        What::Rest {
            user: "supervisor".to_owned(),
            path: "/api/v2/me/devices/efelab32-53f9".to_owned(),
            body: json!({
                "operationName": "Coach",
                "targetDeviceUri": "http://localhost:8080/api/v2/devices/9c14cad7-17c4",
            }),
            status,
            reply,
        }
    }

    #[test]
    fn a_request_with_its_answer_is_a_line_and_three_when_all_is_shown() {
        let accepted = [(1_354, coach(200, json!({"statusCode": 0})))];
        assert_eq!(
            written(false, &accepted),
            ["   1.354  REST    supervisor ▶ POST …/me/devices/efelab32  Coach \
              targetDeviceUri=…/devices/9c14cad7  ◀ 200"]
        );
        assert_eq!(
            written(true, &accepted),
            [
                "   1.354  REST    supervisor ▶ POST /api/v2/me/devices/efelab32-53f9",
                "                  {\"operationName\":\"Coach\",\"targetDeviceUri\":\
                 \"http://localhost:8080/api/v2/devices/9c14cad7-17c4\"}",
                "                ◀ 200 {\"statusCode\":0}",
            ]
        );
        let refused = json!({"statusCode": 6, "statusMessage": "/devices/x does not exist."});
        let line = written(false, &[(0, coach(404, refused))]).remove(0);
        assert!(line.ends_with("  ◀ 404 /devices/x does not exist."), "{line}");
    }

    #[test]
    fn an_event_is_a_line_that_can_be_read_and_the_whole_message_when_all_is_shown() {
        let message = json!({
            "channel": "/v2/me",
            "data": {
                "messageType": "UserStateChangeMessage",
                "user": {"userName": "anna", "userState": {"displayName": "Ready"}},
            },
        });
        let event = What::CometD { user: "anna".to_owned(), message: message.clone() };
        let entries = [(70, event)];
        assert_eq!(written(false, &entries), ["   0.070  CometD  anna ◀ user anna is Ready"]);
        assert_eq!(written(true, &entries), [format!("   0.070  CometD  anna ◀ {message}")]);
    }

    #[test]
    fn a_challenge_and_what_it_has_answered_are_shown_only_when_all_is() {
        let invite = "INVITE sip:5001@127.0.0.1";
        let entries = [
            (1, sip("customer", true, invite)),
            (2, sip("agent", false, "BYE sip:5001@127.0.0.1")),
            (3, sip("customer", false, "401 Unauthorized (INVITE)")),
            (4, sip("customer", true, invite)),
            (5, sip("customer", false, "200 OK (INVITE)")),
            (6, sip("supervisor", false, "INVITE sip:5005@127.0.0.1  [Answer-Mode: Auto]")),
        ];
        assert_eq!(
            written(false, &entries),
            [
                "   0.002  SIP     agent ◀ BYE sip:5001@127.0.0.1",
                "   0.004  SIP     customer ▶ INVITE sip:5001@127.0.0.1",
                "   0.005  SIP     customer ◀ 200 OK (INVITE)",
                "   0.006  SIP     supervisor ◀ INVITE sip:5005@127.0.0.1, to be answered at once",
            ]
        );
        let all = written(true, &entries);
        assert_eq!(all.len(), entries.len());
        assert!(all[5].ends_with("[Answer-Mode: Auto]"), "{}", all[5]);
    }
}
