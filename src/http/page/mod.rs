//! The memory-map page: its three files, and the security policy that lets a browser load nothing else.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::head::Head;
use super::response::{Form, Response};

/// The page's Content-Security-Policy. It allows only the page's own files, requests to the exporter, and
/// `data:` URLs for images, because the page's empty icon is one.
const POLICY: &str = "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// One file of the page.
pub struct File {
    /// The MIME type.
    content_type: &'static str,
    source: &'static str,
    text: OnceLock<String>,
    tag: OnceLock<String>,
    gzip: OnceLock<Vec<u8>>,
}

impl File {
    const fn new(content_type: &'static str, source: &'static str) -> File {
        File { content_type, source, text: OnceLock::new(), tag: OnceLock::new(), gzip: OnceLock::new() }
    }

    /// Returns the text that is served: the source without indentation, empty lines and comment lines.
    fn text(&self) -> &str {
        self.text.get_or_init(|| {
            let lines = self.source.lines().map(str::trim_start);
            lines
                .filter(|line| !line.is_empty() && !line.starts_with("//"))
                .fold(String::new(), |text, line| text + line + "\n")
        })
    }

    /// Returns the file's entity tag. The tag is weak, because the plain file and the gzipped file have the
    /// same tag.
    fn tag(&self) -> &str {
        self.tag.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            self.text().hash(&mut hasher);
            format!("W/\"{:016x}\"", hasher.finish())
        })
    }

    /// Returns the gzipped file, which is compressed only once.
    fn gzip(&self) -> &[u8] {
        self.gzip.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(self.text().as_bytes()).expect("a Vec takes every write");
            encoder.finish().expect("a Vec takes every write")
        })
    }

    /// Answers a request with the file, or with status 304 if the client already has this version of the
    /// file.
    pub fn respond(&'static self, request: &Head<'_>) -> Response {
        let status = if has_tag(request, self.tag()) { 304 } else { 200 };
        let mut headers = vec![
            ("Content-Type", self.content_type),
            ("Content-Security-Policy", POLICY),
            ("Referrer-Policy", "no-referrer"),
            // A browser must ask for a newer version each time, because another version of the exporter
            // serves another page at the same address.
            ("Cache-Control", "no-cache"),
            ("ETag", self.tag()),
            ("Vary", "Accept, Accept-Encoding"),
        ];
        if request.accepts_gzip {
            headers.push(("Content-Encoding", "gzip"));
        }
        let bytes = if request.accepts_gzip { self.gzip() } else { self.text().as_bytes() };
        Response::new(Form::of(request), status, &headers, bytes)
    }
}

/// Returns whether the client has this version of the file (RFC 9110, section 13.1.2). The request lists tags
/// of versions with commas between them. The tags of this program contain no comma, so the list is split at
/// every comma.
fn has_tag(request: &Head<'_>, tag: &str) -> bool {
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    request
        .if_none_match
        .split(|&b| b == b',')
        .map(<[u8]>::trim_ascii)
        .any(|theirs| theirs == b"*" || opaque(theirs) == opaque(tag.as_bytes()))
}

static PAGE: File = File::new("text/html; charset=utf-8", include_str!("index.html"));

static STYLE: File = File::new("text/css; charset=utf-8", include_str!("page.css"));

/// The parts of the script share one scope. The code that runs while a part is loaded uses only earlier
/// parts.
static SCRIPT: File = File::new(
    "text/javascript; charset=utf-8",
    concat!(
        include_str!("script/words.js"),
        include_str!("script/parse.js"),
        include_str!("script/tree.js"),
        include_str!("script/pivot.js"),
        include_str!("script/account.js"),
        include_str!("script/history.js"),
        include_str!("script/layout.js"),
        include_str!("script/place.js"),
        include_str!("script/draw.js"),
        include_str!("script/map.js"),
        include_str!("script/table.js"),
        include_str!("script/cgroups.js"),
        include_str!("script/promql.js"),
        include_str!("script/ooms.js"),
        include_str!("script/poll.js"),
    ),
);

/// Returns the file at a path; `None` if there is no file. At `/`, only browsers get the page; the caller
/// redirects other clients to `/metrics`. The page refers to its style and its script by relative addresses,
/// because a proxy may serve the exporter below another path.
pub fn file(path: &[u8], is_browser: bool) -> Option<&'static File> {
    match path {
        b"/" if is_browser => Some(&PAGE),
        b"/page.css" => Some(&STYLE),
        b"/page.js" => Some(&SCRIPT),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::super::head::{Parsed, parse_head};
    use super::*;

    const FILES: [&File; 3] = [&PAGE, &STYLE, &SCRIPT];

    /// Returns the head and the body of the response when a browser requests the file at this path.
    fn get(path: &str, headers: &str) -> (String, Vec<u8>) {
        let request = format!("GET {path} HTTP/1.0\r\n{headers}\r\n\r\n");
        let Parsed::Complete(head, _) = parse_head(request.as_bytes()) else { panic!("{request:?}") };
        let response = file(head.path, true).unwrap().respond(&head);
        (String::from_utf8(response.head).unwrap(), response.text.into_owned())
    }

    #[test]
    fn files_can_be_cached_and_gzipped() {
        for (path, content_type) in [
            ("/", "text/html; charset=utf-8"),
            ("/page.css", "text/css; charset=utf-8"),
            ("/page.js", "text/javascript; charset=utf-8"),
        ] {
            let (head, body) = get(path, "X: y");
            let (_, tag) = head.split_once("\r\nETag: ").unwrap();
            let (tag, _) = tag.split_once("\r\n").unwrap();
            for header in [
                &format!("Content-Type: {content_type}\r\n"),
                "Content-Security-Policy: default-src 'none'; ",
                "X-Content-Type-Options: nosniff\r\n",
                "Cache-Control: no-cache\r\n",
            ] {
                assert!(head.contains(&format!("\r\n{header}")), "{path}: {head}");
            }
            assert_eq!(body.starts_with(b"<!doctype html>"), path == "/");

            let (head, zipped) = get(path, "Accept-Encoding: gzip");
            assert!(head.contains("\r\nContent-Encoding: gzip\r\n"), "{head}");
            assert!(zipped.len() < body.len() / 2);

            for (theirs, status) in [
                (tag, 304),
                (tag.trim_start_matches("W/"), 304),
                (&*format!("\"x\", {tag}"), 304),
                ("*", 304),
                ("\"x\"", 200),
                ("", 200),
            ] {
                let (head, body) = get(path, &format!("If-None-Match: {theirs}"));
                assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {theirs}: {head}");
                assert!(head.contains(&format!("\r\nETag: {tag}\r\n")), "{head}");
                assert_eq!(body.is_empty(), status == 304);
            }
        }
    }

    #[test]
    fn the_page_names_its_files_relative_to_itself() {
        for link in ["<link rel=\"stylesheet\" href=\"page.css\">", "<script src=\"page.js\" defer></script>"]
        {
            assert!(PAGE.text().contains(link), "{link}");
        }
        assert!(
            !PAGE.text().contains("<style") && !PAGE.text().contains("style="),
            "the policy forbids both"
        );
        for (path, is_there) in [("/", true), ("/page.css", true), ("/page.js", true), ("/page.html", false)]
        {
            assert_eq!(file(path.as_bytes(), true).is_some(), is_there, "{path}");
        }
        assert!(file(b"/", false).is_none() && file(b"/page.js", false).is_some());
    }

    #[test]
    fn the_files_are_small() {
        let len: usize = FILES.iter().map(|file| file.text().len()).sum();
        assert!(len <= 103 << 10, "{len} bytes");
    }

    #[test]
    fn tags_differ_and_gzip_holds_the_text() {
        for (i, file) in FILES.iter().enumerate() {
            assert!(FILES[i + 1..].iter().all(|other| other.tag() != file.tag()));
            let mut text = String::new();
            flate2::read::GzDecoder::new(file.gzip()).read_to_string(&mut text).unwrap();
            assert!(text == file.text() && file.gzip().len() < text.len() / 2);
        }
    }
}
