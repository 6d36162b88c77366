//! The page that shows the documents. Its files are in the program, so that it works where no other
//! host can be reached.

use axum::Router;
use axum::http::{HeaderName, header};
use axum::routing::get;

/// Where the page is.
pub(super) const PATH: &str = "/api/v2/docs";

/// The page and what belongs to it: path, media type, text.
const FILES: [(&str, &str, &str); 3] = [
    (PATH, "text/html; charset=utf-8", include_str!("page/docs.html")),
    ("/api/v2/docs/docs.js", "text/javascript; charset=utf-8", include_str!("page/docs.js")),
    ("/api/v2/docs/docs.css", "text/css; charset=utf-8", include_str!("page/docs.css")),
];

/// Script, style and data come from here alone, nothing is sent anywhere, and no page may frame it.
const MAY_LOAD: (HeaderName, &str) = (
    header::CONTENT_SECURITY_POLICY,
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// `/api/v2/docs` and what belongs to it.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, media_type, text)| {
        let answer = async move || ([(header::CONTENT_TYPE, media_type), MAY_LOAD], text);
        router.route(path, get(answer))
    })
}
