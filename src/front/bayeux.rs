//! CometD (Bayeux): the event channel of desktops.
