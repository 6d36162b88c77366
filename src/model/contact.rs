use super::{GroupId, Number, UserId};

/// A user as a colleague sees the user: how a supervisor finds an agent's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactView {
    /// Login name.
    pub id: UserId,
    /// Name for people.
    pub display_name: String,
    /// First name.
    pub first_name: String,
    /// Last name; may be empty.
    pub last_name: String,
    /// The numbers of the user's devices, in the order they are shown.
    pub numbers: Vec<ContactNumber>,
}

/// A number at which a contact is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactNumber {
    /// The number itself.
    pub number: Number,
    /// Name of the voice environment of its device.
    pub switch: String,
}

/// A group of agents and their supervisors, as a user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// Its id, which is its name.
    pub id: GroupId,
    /// What an admin may change of it; `None` for anybody else.
    pub settings: Option<GroupSettings>,
}

/// The members of a group, and what its supervisors may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// The agents of the group.
    pub agents: Vec<UserId>,
    /// The supervisors of the group.
    pub supervisors: Vec<UserId>,
    /// Its supervisors may also monitor its members that are supervisors themselves.
    pub monitor_supervisors: bool,
    /// Its supervisors hear the agents alone.
    pub agent_side_only: bool,
}
