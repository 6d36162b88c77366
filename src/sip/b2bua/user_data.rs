//! What is attached to a call: it stays with the call, whichever parties come and go.
//!
//! | | the data |
//! |---|---|
//! | begins | what its INVITE says, or what was given with Dial |
//! | transferred, or another party called into it | stays, with what was given |
//! | made to ask about another (Initiate) | a copy of the other's, with what was given |
//! | becomes a part of another | the other's, and its own on top as far as there is room |
//! | forwarded, redirected, handed on | stays |

use super::call::Call;
use super::party::Party;
use super::step::Ctx;
use crate::model::{DeviceId, Refusal, UserData, UserDataChange};

impl Call {
    /// A party changes what is attached.
    pub(super) fn change_user_data(
        &mut self,
        device: &DeviceId,
        change: &UserDataChange,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), Refusal> {
        self.principal_of(device)?;
        let changed = self.user_data.changed(change);
        self.user_data = changed.map_err(|_| Refusal::too_much_user_data("set.user_data"))?;
        ctx.out.changed.insert(self.key);
        Ok(())
    }

    /// What is attached, with what is given beside it.
    pub(super) fn user_data_with(&self, given: &UserData) -> Result<UserData, Refusal> {
        self.user_data.with(given).map_err(|_| Refusal::too_much_user_data("user_data"))
    }

    /// What another call, or another leg of the same party, brings along: as much as there is room
    /// for.
    pub(super) fn add_user_data(&mut self, others: &UserData) {
        self.user_data = self.user_data.with_what_fits(others);
    }

    /// The party of a device that is a supervisor's on no call.
    pub(super) fn principal_of(&self, device: &DeviceId) -> Result<&Party, Refusal> {
        let party = self.parties.of(device).ok_or_else(|| Refusal::no_call(&self.id))?;
        party.check_principal()?;
        Ok(party)
    }
}
