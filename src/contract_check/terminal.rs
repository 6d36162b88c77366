//! `undertone contract-check`: the check in a terminal.

use super::{
    House, NoPhones, NotChecked, Phones, PhonesError, PhonesProgram, Report, RuleOutcome,
    RuleReport, UNREST, check,
};
use crate::model::is_plain;
use crate::telephony::callers::{BearerToken, TokenError};
use crate::telephony::connection::remote;
use crate::tls::{ClientTls, ClientTlsFiles};
use serde_json::json;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

/// What to check, and how to say it.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// Where the backend is.
    pub url: String,
    /// The file with the token to show there.
    pub token_file: Option<PathBuf>,
    /// The authorities that vouch for it, and the certificate to present there.
    pub tls: ClientTlsFiles,
    /// Who is who there.
    pub house: House,
    /// The program that moves the telephones, for `sh`.
    pub phones: Option<String>,
    /// How long anything may take.
    pub patience: Duration,
    /// One JSON document instead of lines for people.
    pub json: bool,
}

/// The check has not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The address cannot be used.
    #[error("'{0}' is no address of a backend: {1}")]
    Url(String, tonic::transport::Error),
    /// The address does not say how.
    #[error("'{0}' is no address of a backend: it must begin with http:// or https://")]
    NoScheme(String),
    /// The token cannot be shown.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The telephones cannot be moved.
    #[error(transparent)]
    Phones(#[from] PhonesError),
    /// The backend cannot be checked.
    #[error(transparent)]
    NotChecked(#[from] NotChecked),
    /// Nobody reads the report.
    #[error("the report can not be written: {0}")]
    Io(#[from] io::Error),
}

/// Checks, and writes the report to standard output: of each rule as soon as it is known, or the
/// whole as one JSON document. True: no rule is broken.
///
/// # Errors
/// Nothing, or not everything, was checked.
pub async fn run(options: &CheckOptions) -> Result<bool, CheckError> {
    if !["http://", "https://"].iter().any(|scheme| options.url.starts_with(scheme)) {
        return Err(CheckError::NoScheme(options.url.clone()));
    }
    let token = match &options.token_file {
        Some(path) => BearerToken::of_file(path, &options.url)?,
        None => BearerToken::none(),
    };
    let channel = remote(&options.url, ClientTls::new(options.tls.clone()), token)
        .map_err(|error| CheckError::Url(options.url.clone(), error))?;
    let mut written = Ok(());
    let mut unsaid = 0_usize;
    let mut is_said = false;
    let told = |rule: &RuleReport| {
        if let RuleOutcome::Skipped { why } = &rule.outcome
            && why.starts_with(UNREST)
            && std::mem::replace(&mut is_said, true)
        {
            unsaid += 1;
            return;
        }
        if !options.json && written.is_ok() {
            written = writeln!(io::stdout(), "{rule}");
        }
    };
    let (house, patience) = (&options.house, options.patience);
    let report = match &options.phones {
        Some(command) => {
            let mut phones = PhonesProgram::start(command, patience)?;
            if phones.ends_at_once().await
                && let Some(how) = phones.ended()
            {
                return Err(NotChecked::PhonesEnded(how).into());
            }
            check(channel, house, Some(phones), patience, told).await?
        }
        None => check(channel, house, None::<NoPhones>, patience, told).await?,
    };
    written?;
    let mut out = io::stdout().lock();
    match options.json {
        true => writeln!(out, "{}", escaped(&format!("{:#}", document(&options.url, &report))))?,
        false => {
            if unsaid > 0 {
                writeln!(out, "skipped  {unsaid} more rules for the same reason")?;
            }
            writeln!(out, "\n{report}")?;
        }
    }
    out.flush()?;
    Ok(report.is_good())
}

fn document(url: &str, report: &Report) -> serde_json::Value {
    let (ok, failed, skipped) = report.counts();
    json!({
        "url": url,
        "backend": report.backend,
        "ok": ok,
        "failed": failed,
        "skipped": skipped,
        "rules": report.rules,
    })
}

/// The same JSON, in which no character is raw that a terminal could take for a command; JSON
/// itself asks that only of those below U+0020 (RFC 8259 section 7).
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match is_plain(c) || c == '\n' {
            true => text.push(c),
            // Outside of strings there is none; all of them are in the basic plane.
            false => text.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract_check::{Rule, RuleOutcome};

    #[test]
    fn a_backends_texts_reach_the_terminal_escaped_and_a_machine_as_they_are() {
        let hostile = "\u{1b}]0;x\u{7}\u{9b}2J\u{202e}";
        let rule = RuleReport {
            rule: Rule::ALL[0],
            outcome: RuleOutcome::Failed {
                expected: "a fact".to_owned(),
                came: format!("{hostile}{}", "x".repeat(1000)),
            },
        };
        let shown = rule.to_string();
        assert!(shown.contains(r"\u{1b}]0;x\u{7}\u{9b}2J\u{202e}xxx"), "{shown}");
        assert!(shown.lines().count() == 3 && shown.chars().count() < 1000, "{shown}");
        let report = Report { backend: hostile.to_owned(), rules: vec![rule] };
        assert!(report.to_string().chars().all(is_plain), "{report}");
        let json = format!("{:#}", document("http://127.0.0.1:1", &report));
        let text = escaped(&json);
        assert!(text.chars().all(|c| is_plain(c) || c == '\n'), "{text}");
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["backend"], hostile);
    }
}
