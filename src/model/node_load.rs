//! How busy a node is.

/// How many calls a telephony backend has, and whether it takes more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeLoad {
    /// Calls now.
    pub calls: u32,
    /// Calls at most; `None`: no limit is known.
    pub max_calls: Option<u32>,
    /// Its calls go on, and it takes no new ones.
    pub is_draining: bool,
}

impl NodeLoad {
    /// The load of several nodes as of one: its limit is known when all of theirs are, and it
    /// drains when all of them do.
    pub fn of_all(nodes: impl Iterator<Item = NodeLoad>) -> NodeLoad {
        let together = |all: NodeLoad, node: NodeLoad| NodeLoad {
            calls: all.calls.saturating_add(node.calls),
            max_calls: all.max_calls.zip(node.max_calls).map(|(all, one)| all.saturating_add(one)),
            is_draining: all.is_draining && node.is_draining,
        };
        nodes.reduce(together).unwrap_or_default()
    }

    /// A new call may begin there.
    pub fn takes_calls(&self) -> bool {
        !self.is_draining && self.room() > 0
    }

    /// How many more calls there may be.
    pub fn room(&self) -> u32 {
        self.max_calls.map_or(u32::MAX, |most| most.saturating_sub(self.calls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(calls: u32, max_calls: Option<u32>, is_draining: bool) -> NodeLoad {
        NodeLoad { calls, max_calls, is_draining }
    }

    #[test]
    fn a_node_takes_calls_while_it_has_room_and_does_not_drain() {
        assert!(NodeLoad::default().takes_calls());
        assert!(load(9, Some(10), false).takes_calls());
        assert!(!load(10, Some(10), false).takes_calls());
        assert!(!load(11, Some(10), false).takes_calls());
        assert!(!load(0, None, true).takes_calls());
    }

    #[test]
    fn several_nodes_are_as_busy_as_all_of_them_and_drain_when_all_do() {
        let all = |nodes: &[NodeLoad]| NodeLoad::of_all(nodes.iter().copied());
        let (one, other) = (load(2, Some(5), true), load(3, Some(7), false));
        assert_eq!(all(&[one, other]), load(5, Some(12), false));
        assert_eq!(all(&[one, load(3, None, true)]), load(5, None, true));
        assert_eq!(all(&[]), NodeLoad::default());
    }
}
