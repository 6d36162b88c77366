//! Sound: who hears whom, and the packets that make it so.
