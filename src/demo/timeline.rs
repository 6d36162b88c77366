//! What happened, in order: shown as it goes, and kept for `--json`.

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
    colours: bool,
    waiting: Arc<Mutex<Vec<TimelineEntry>>>,
    told: Arc<Mutex<Vec<TimelineEntry>>>,
}

impl Timeline {
    /// With `shown` false nothing is written.
    pub(super) fn new(start: Instant, shown: bool) -> Timeline {
        Timeline {
            start,
            shown,
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
        for entry in &waiting {
            let at = format!("{:>8.3}", self.since_start(entry.at) / 1000.0);
            match &entry.what {
                What::Rest { user, path, body, status, reply } => {
                    self.line(CYAN, &format!("{at}  REST    {user} ▶ POST {path}"));
                    self.line(CYAN, &format!("                  {body}"));
                    self.line(CYAN, &format!("                ◀ {status} {reply}"));
                }
                What::CometD { user, message } => {
                    self.line(YELLOW, &format!("{at}  CometD  {user} ◀ {message}"));
                }
                What::Sip { phone, sent, line } => {
                    self.line(
                        DIM,
                        &format!("{at}  SIP     {phone} {} {line}", if *sent { '▶' } else { '◀' }),
                    );
                }
            }
        }
        held(&self.told).extend(waiting);
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
