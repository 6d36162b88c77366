//! The way in for an admin: changes wait for the one task that keeps the directory.

use super::editor::Edit;
use super::fields::Fields;
use crate::model::{DeviceId, Reason, Refusal, UserId};
use crate::secret::Secret;
use std::collections::BTreeMap;
use std::net::IpAddr;
use tokio::sync::{mpsc, oneshot};

/// Changes and reads that may wait.
const WAITING: usize = 64;

/// A new password of the entry that is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewPassword {
    /// Of a user: a PHC string of argon2id.
    Hash(Secret),
    /// Of a device.
    Sip(Secret),
}

/// A change that an admin asks for.
#[derive(Debug)]
pub struct AskedEdit {
    /// Who asks.
    pub user: UserId,
    /// From where.
    pub from: IpAddr,
    /// What is to change.
    pub edit: Edit,
    /// The password, if it is another one.
    pub password: Option<NewPassword>,
}

/// What waits for the keeper of the directory, and where its outcome goes.
#[derive(Debug)]
pub enum Waiting {
    /// A change.
    Edit(AskedEdit, oneshot::Sender<Result<(), Refusal>>),
    /// Which of these devices have what fields.
    Devices(Vec<DeviceId>, oneshot::Sender<BTreeMap<DeviceId, Fields>>),
}

/// The way in to the directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DirectoryHandle(mpsc::Sender<Waiting>);

impl DirectoryHandle {
    /// Only an admin may.
    pub fn not_admin() -> Refusal {
        Refusal::new(Reason::NotPermitted, "Only an admin may change the directory.")
    }

    /// Nobody changes it but the configuration file.
    pub fn kept_in_file() -> Refusal {
        Refusal::new(
            Reason::Forbidden,
            "The directory is kept in the configuration file (directory.source = \"file\"): change \
             it there.",
        )
    }

    /// A handle, and what comes by it.
    pub fn channel() -> (Self, mpsc::Receiver<Waiting>) {
        let (sender, edits) = mpsc::channel(WAITING);
        (Self(sender), edits)
    }

    /// Changes the directory. It is kept, and everybody is told, when the future has ended.
    ///
    /// # Errors
    /// The user is no admin, the directory is kept in the configuration file, the entry can not be
    /// so, or the state can not be written: nothing has changed.
    pub async fn edit(&self, asked: AskedEdit) -> Result<(), Refusal> {
        let closing = |_| Refusal::new(Reason::Unavailable, "The gateway is shutting down.");
        let (reply, outcome) = oneshot::channel();
        let sent = self.0.try_send(Waiting::Edit(asked, reply));
        sent.map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Self::too_many(),
            mpsc::error::TrySendError::Closed(_) => Self::kept_in_file(),
        })?;
        outcome.await.map_err(closing)?
    }

    /// These devices in the words of the configuration file, without secrets; of those whose
    /// accounts are not in this process, nothing.
    ///
    /// # Errors
    /// Too much waits.
    pub async fn device_fields(
        &self,
        devices: Vec<DeviceId>,
    ) -> Result<BTreeMap<DeviceId, Fields>, Refusal> {
        let (reply, outcome) = oneshot::channel();
        match self.0.try_send(Waiting::Devices(devices, reply)) {
            Ok(()) => Ok(outcome.await.unwrap_or_default()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Self::too_many()),
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(BTreeMap::new()),
        }
    }

    fn too_many() -> Refusal {
        Refusal::new(Reason::Unavailable, "Too many changes of the directory at once.")
    }
}
