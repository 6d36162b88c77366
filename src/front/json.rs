//! The JSON shapes of GWS v2: views and notices ⇄ text.
