//! HTTP+JSON ⇄ Request and reply.
