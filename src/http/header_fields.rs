//! The header lines of an HTTP/1 request, as far as the server uses them.

/// Returns whether a method or a header name may contain this byte (RFC 9110, section 5.6.2).
pub fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// The header lines parsed so far. A list may be spread over several lines, so its qualities are collected.
#[derive(Default)]
pub struct HeaderFields<'a> {
    /// The number of `Host` lines.
    pub n_hosts: usize,
    /// The value of the last `Host` line.
    pub host: &'a [u8],
    /// Whether a body follows.
    pub has_body: bool,
    /// Whether there was `Connection: close`.
    pub close: bool,
    /// Whether there was `Connection: keep-alive`.
    pub keep_alive: bool,
    /// The qualities of `gzip`, `identity` and `*`, as far as the request names them.
    gzip: Option<u16>,
    identity: Option<u16>,
    any_encoding: Option<u16>,
    /// The quality of `text/html`, and the highest quality of the other media types.
    html: u16,
    other_type: u16,
    /// The value of the last `If-None-Match` line.
    pub if_none_match: &'a [u8],
    /// The value of the last `X-Prometheus-Scrape-Timeout-Seconds` line.
    pub scrape_timeout: &'a [u8],
}

impl<'a> HeaderFields<'a> {
    /// Adds one `name: value` line. Returns `None` if the line does not have this form.
    pub fn add(&mut self, line: &'a [u8]) -> Option<()> {
        let colon = line.iter().position(|&b| b == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // This also refuses folded lines and a space before the colon, both of which have been used for
        // request smuggling.
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return None;
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return None;
            }
            self.has_body |= value.iter().any(|&b| b != b'0');
        } else if name.eq_ignore_ascii_case(b"host") {
            self.n_hosts += 1;
            self.host = value;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.has_body = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            for (option, _) in list(value) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if name.eq_ignore_ascii_case(b"accept-encoding") {
            for (coding, quality) in list(value) {
                if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
                    self.gzip = self.gzip.max(Some(quality));
                } else if coding.eq_ignore_ascii_case(b"identity") {
                    self.identity = self.identity.max(Some(quality));
                } else if coding == b"*" {
                    self.any_encoding = self.any_encoding.max(Some(quality));
                }
            }
        } else if name.eq_ignore_ascii_case(b"accept") {
            for (media_type, quality) in list(value) {
                let is_html = media_type.eq_ignore_ascii_case(b"text/html");
                let best = if is_html { &mut self.html } else { &mut self.other_type };
                *best = quality.max(*best);
            }
        } else if name.eq_ignore_ascii_case(b"if-none-match") {
            self.if_none_match = value;
        } else if name.eq_ignore_ascii_case(b"x-prometheus-scrape-timeout-seconds") {
            self.scrape_timeout = value;
        }
        Some(())
    }

    /// Returns whether the response may be gzipped.
    pub fn accepts_gzip(&self) -> bool {
        let gzip = self.gzip.or(self.any_encoding).unwrap_or(0);
        gzip > 0 && gzip >= self.identity.unwrap_or(0)
    }

    /// Returns whether no media type has a higher quality than `text/html`.
    pub fn prefers_html(&self) -> bool {
        self.html > 0 && self.html >= self.other_type
    }
}

/// Returns the members of a comma-separated list, each with its quality.
fn list(value: &[u8]) -> impl Iterator<Item = (&[u8], u16)> {
    value.split(|&b| b == b',').filter_map(|member| {
        let mut parts = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let weight = parts.find_map(|p| p.strip_prefix(b"q=").or_else(|| p.strip_prefix(b"Q=")));
        Some((name, weight.map_or(1000, parse_quality)))
    })
}

/// Returns a quality such as `0`, `1` or `0.5` in thousandths. An invalid quality counts as 0.
fn parse_quality(text: &[u8]) -> u16 {
    let (whole, decimals) = match text {
        [whole] => (whole, &[][..]),
        [whole, b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return 0,
    };
    if !matches!(whole, b'0' | b'1') || !decimals.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    let thousandths = (0..3).fold(0, |sum, i| sum * 10 + u16::from(decimals.get(i).unwrap_or(&b'0') - b'0'));
    (u16::from(whole - b'0') * 1000 + thousandths).min(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &str) -> HeaderFields<'_> {
        let mut fields = HeaderFields::default();
        for line in lines.split("\r\n") {
            fields.add(line.as_bytes()).unwrap_or_else(|| panic!("{line:?} is no header"));
        }
        fields
    }

    #[test]
    fn encodings() {
        for (header, accepts_gzip) in [
            ("Accept-Encoding: gzip", true),
            ("Accept-Encoding: deflate, GZIP;q=0.001, br", true),
            ("Accept-Encoding: x-gzip", true),
            ("Accept-Encoding: *", true),
            ("Accept-Encoding: br\r\nAccept-Encoding: gzip", true),
            ("Accept-Encoding: gzip;q=0.5, identity;q=0.5", true),
            ("Accept-Encoding: gzip;q=0.5, identity", false),
            ("Accept-Encoding: gzip;q=0", false),
            ("Accept-Encoding: gzip; q=0.000, *", false),
            ("Accept-Encoding: *;q=0", false),
            ("Accept-Encoding: br;q=1", false),
            ("Accept-Encoding: gzip;q=lots", false),
            ("Accept-Encoding: gzip;q=0.0001", false),
            ("Accept-Encoding:", false),
            ("Accept-Encoding: ,,;q=1,", false),
            ("Accept: gzip", false),
        ] {
            assert_eq!(fields(header).accepts_gzip(), accepts_gzip, "{header}");
        }
    }

    #[test]
    fn text_html_is_preferred_at_equal_quality() {
        for (accept, prefers_html) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("text/html", true),
            ("*/*, Text/HTML", true),
            ("*/*", false),
            ("text/html;q=0", false),
            ("text/plain, text/html;q=0.9", false),
            (
                "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                false,
            ),
            ("", false),
        ] {
            assert_eq!(fields(&format!("Accept: {accept}")).prefers_html(), prefers_html, "{accept}");
        }
    }

    #[test]
    fn qualities() {
        for (text, thousandths) in [
            ("0", 0),
            ("1", 1000),
            ("1.000", 1000),
            ("1.9", 1000),
            ("0.5", 500),
            ("0.05", 50),
            ("0.", 0),
            ("2", 0),
            ("", 0),
            (".5", 0),
            ("0.1234", 0),
            ("0.x", 0),
        ] {
            assert_eq!(parse_quality(text.as_bytes()), thousandths, "{text}");
        }
    }
}
