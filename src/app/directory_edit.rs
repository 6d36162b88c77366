//! What an admin changes over REST: checked, written down, kept, and told to everybody.

use super::directory::{DirectoryKeeper, GatewayPart};
use super::directory_files::given;
use super::directory_news::News;
use crate::config;
use crate::directory::handle::{AskedEdit, DirectoryHandle, NewPassword};
use crate::directory::{DirectoryEditor, Edit, EditKind, EntryId, kept};
use crate::gateway::Directory;
use crate::http::auth::PasswordHashes;
use crate::model::{Reason, Refusal, Role, UserId};
use crate::secret::Secret;
use crate::sip::config::{SipAccount, SipDirectory};
use crate::sip::digest::Ha1s;
use crate::store::{Store, StoreError, Write};
use serde_json::Value;
use std::net::IpAddr;

/// What the two stores are told.
struct Writes {
    gateway: Vec<Write>,
    backend: Vec<Write>,
}

impl DirectoryKeeper {
    /// Does what an admin asks for, or refuses it; then nothing has changed.
    pub(super) async fn edit(&mut self, asked: AskedEdit) -> Result<(), Refusal> {
        let AskedEdit { user, from, edit, password } = asked;
        let by = (&user, from);
        if !self.directory.user(&user).is_some_and(|user| user.is(Role::Admin)) {
            let refusal = DirectoryHandle::not_admin();
            self.audit_refused(&edit, &refusal, by).await;
            return Err(refusal);
        }
        let Some(editor) = &mut self.editor else {
            return Err(DirectoryHandle::kept_in_file());
        };
        let has_issuers = !self.config.issuers.is_empty();
        needs_password(editor, &edit, password.as_ref(), has_issuers)?;
        let (before, accounts_before) = (editor.directory().clone(), editor.accounts().clone());
        let trunks = self.told.backend.as_ref().map(|backend| backend.sip.trunks.as_slice());
        let given = given(&self.config, trunks.unwrap_or_default());
        let entry = edit.entry.clone();
        let touched = editor.apply(edit)?;
        let mut writes = Writes { gateway: kept::writes(editor, &touched), backend: Vec::new() };
        let (hashes, ha1s) = match password {
            Some(NewPassword::Hash(hash)) => (Some(hash), None),
            Some(NewPassword::Sip(secret)) => {
                let number = editor
                    .fields(&entry)
                    .and_then(|fields| Some(fields.get("number")?.as_str()?.to_owned()));
                let realm = &self.config.sip.realm;
                (None, number.map(|number| config::ha1s_of(realm, &number, secret.expose())))
            }
            None => (None, None),
        };
        let outcome = self.keep_and_tell(&entry, (hashes, ha1s), &mut writes, by, &before).await;
        if outcome.is_err() {
            self.editor = Some(DirectoryEditor::new(before, accounts_before, given));
        }
        outcome
    }

    async fn keep_and_tell(
        &mut self,
        entry: &EntryId,
        (hash, ha1s): (Option<Secret>, Option<Ha1s>),
        writes: &mut Writes,
        by: (&UserId, IpAddr),
        before: &Directory,
    ) -> Result<(), Refusal> {
        let (Some(editor), Some(gateway), Some(backend)) =
            (&mut self.editor, &self.told.gateway, &mut self.told.backend)
        else {
            return Err(DirectoryHandle::kept_in_file());
        };
        let mut passwords = PasswordHashes::new();
        match entry {
            EntryId::User(user) => {
                let is_gone = editor.directory().user(user).is_none();
                if is_gone || hash.is_some() {
                    writes.gateway.push(config::keep_password(user, hash.as_ref()));
                }
                passwords.extend(hash.map(|hash| (user.clone(), hash)));
            }
            EntryId::Device(device) => {
                let realm = &self.config.sip.realm;
                let was = backend.sip.accounts.get(device).map(|account| account.username.clone());
                if let Some(ha1s) = ha1s {
                    editor.set_ha1s(device, ha1s);
                }
                let is = editor.accounts().get(device);
                if let Some(was) = was.filter(|was| is.is_none_or(|is| is.username != *was)) {
                    writes.backend.extend(config::keep_ha1s(realm, &was, None));
                }
                if let Some(SipAccount { username, ha1s, .. }) = is {
                    writes.backend.extend(config::keep_ha1s(realm, username, Some(ha1s)));
                }
            }
            EntryId::Group(_) => {}
        }
        let directory = editor.directory().clone();
        let sip = SipDirectory {
            accounts: editor.accounts().clone(),
            trunks: backend.sip.trunks.clone(),
        };
        let news =
            News::between((before, Some(&backend.sip)), (&directory, Some(&sip)), passwords.keys());
        for line in news.lines() {
            let written = gateway.handle.audit_directory(line, Some(by)).await;
            written.map_err(|_| {
                Refusal::new(Reason::Internal, "The audit cannot be written: nothing is changed.")
            })?;
        }
        let mut kept = keep(&backend.store, std::mem::take(&mut writes.backend)).await;
        if kept.is_ok() {
            kept = keep(&gateway.store, std::mem::take(&mut writes.gateway)).await;
        }
        if let Err(refusal) = kept {
            for line in news.lines() {
                // What was announced has not come about, written down or not.
                let line = format!("not done, the state can not be kept: {line}");
                let _ = gateway.handle.audit_directory(&line, Some(by)).await;
            }
            return Err(refusal);
        }
        let removed: Vec<UserId> = match entry {
            EntryId::User(user) if directory.user(user).is_none() => vec![user.clone()],
            EntryId::User(_) | EntryId::Device(_) | EntryId::Group(_) => Vec::new(),
        };
        self.tell(directory, (passwords, &removed), Some(sip))
            .await
            .map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
        for line in news.lines() {
            tracing::info!(user = %by.0, change = line, "the directory has changed");
        }
        Ok(())
    }

    async fn audit_refused(&self, edit: &Edit, refusal: &Refusal, by: (&UserId, IpAddr)) {
        if let Some(GatewayPart { handle, .. }) = &self.told.gateway {
            let line = format!("refused at {}: {refusal}", edit.entry);
            // A refusal stands, written down or not: the failure is in the log.
            let _ = handle.audit_directory(&line, Some(by)).await;
        }
    }
}

/// A new entry needs a password, but for a user where there are issuers of tokens, and a device with
/// another number needs it again: its digests are of both. A device behind a trunk has none.
fn needs_password(
    editor: &DirectoryEditor,
    edit: &Edit,
    password: Option<&NewPassword>,
    has_issuers: bool,
) -> Result<(), Refusal> {
    let needs = match (&edit.entry, &edit.kind) {
        (EntryId::Group(_), _) | (_, EditKind::Remove) => false,
        (EntryId::User(_), EditKind::Create(_)) => !has_issuers,
        (EntryId::User(_), EditKind::Change(_) | EditKind::Put(_)) => false,
        (
            EntryId::Device(_),
            EditKind::Create(fields) | EditKind::Change(fields) | EditKind::Put(fields),
        ) => {
            let before = editor.fields(&edit.entry);
            let was = |key: &str| before.as_ref().and_then(|before| before.get(key));
            let is_behind = |via: Option<&Value>| {
                via.and_then(Value::as_str).is_some_and(|via| !via.is_empty())
            };
            if is_behind(fields.get("via").or(was("via"))) {
                return match password {
                    None => Ok(()),
                    Some(_) => Err(Refusal::parameter(
                        Reason::InvalidInput,
                        "password",
                        "A device behind a trunk has no '{}': its phones register with the switch.",
                    )),
                };
            }
            let is_new = before.is_none() && matches!(edit.kind, EditKind::Create(_));
            let other = fields.get("number").is_some_and(|new| Some(new) != was("number"));
            is_new || before.is_some() && (other || is_behind(was("via")))
        }
    };
    match needs && password.is_none() {
        true => Err(Refusal::missing("password")),
        false => Ok(()),
    }
}

async fn keep(store: &Store, writes: Vec<Write>) -> Result<(), Refusal> {
    if writes.is_empty() {
        return Ok(());
    }
    let store = store.clone();
    let written = tokio::task::spawn_blocking(move || store.write(&writes)).await;
    match written {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(not_kept(&error)),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn not_kept(error: &StoreError) -> Refusal {
    tracing::error!(%error, "a change of the directory can not be kept");
    Refusal::new(Reason::Internal, "The state can not be kept.")
}
