//! Parses the parameters of a request to `/metrics`. Each parameter has the name and the values of an option,
//! and replaces that option for one response.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::options::Options;
use super::spec::Spec;
use super::suggestion;
use super::table::OPTIONS;
use super::usage_error::UsageError;

/// The names of the options that a request may replace.
const PARAMETERS: [&str; 5] = ["group-by", "filter", "pid", "fields", "omit-zero"];

/// The maximum length in bytes of all filters in one request together. Matching a thousand containers against
/// filters with thousands of `*` would take seconds.
const MAX_FILTER_BYTES: usize = 1024;

/// Parses a query, which is the part of a request's target after `?`. Returns a copy of `options`, in which
/// the values from the query replace those of the command line. The filters of the command line are not
/// copied, because each scrape already applies them.
///
/// The error is a one-line message that quotes the wrong part and says what is expected.
pub fn parse(query: &[u8], options: &Options) -> Result<Options, UsageError> {
    let mut options = options.clone();
    options.filters.clear();
    let mut given: Vec<&str> = Vec::new();
    let mut n_filter_bytes = 0;
    for parameter in query.split(|&byte| byte == b'&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = match parameter.iter().position(|&byte| byte == b'=') {
            Some(at) => (&parameter[..at], Some(&parameter[at + 1..])),
            None => (parameter, None),
        };
        let (name, value) = (decode(name)?, value.map(decode).transpose()?);
        let spec = find(&name)?;
        if given.contains(&spec.name) && !spec.is_repeatable {
            let value = value.as_deref().map(OsStr::from_bytes).unwrap_or_default();
            return Err(UsageError::new(format!("unexpected second {} {value:?}: expected one", spec.name)));
        }
        given.push(spec.name);
        match (spec.value, value.as_deref()) {
            ("", None | Some(b"" | b"true")) => spec.set(spec.name, &mut options, "".as_ref())?,
            ("", Some(b"false")) => match spec.name {
                "pid" => options.pid = false,
                _ => options.omit_zero = false,
            },
            ("", Some(value)) => {
                let (name, value) = (spec.name, OsStr::from_bytes(value));
                let text = format!("invalid value {value:?} for {name}: expected \"true\" or \"false\"");
                return Err(UsageError::new(text));
            }
            (_, value) => {
                let value = OsStr::from_bytes(value.unwrap_or_default());
                n_filter_bytes += if spec.name == "filter" { value.len() } else { 0 };
                if n_filter_bytes > MAX_FILTER_BYTES {
                    return Err(UsageError::new(format!(
                        "{n_filter_bytes} bytes of filter: expected at most {MAX_FILTER_BYTES}"
                    )));
                }
                spec.set(spec.name, &mut options, value)?;
            }
        }
    }
    Ok(options)
}

/// Returns the option that a parameter replaces.
fn find(name: &[u8]) -> Result<&'static Spec, UsageError> {
    let known = PARAMETERS.into_iter().find(|known| known.as_bytes() == name);
    let spec = known.and_then(|known| OPTIONS.iter().find(|spec| spec.name == known));
    spec.ok_or_else(|| {
        let name = OsStr::from_bytes(name);
        let nearest = suggestion::nearest(&name.to_string_lossy(), PARAMETERS.into_iter());
        UsageError::new(match nearest {
            Some(nearest) => format!("unknown parameter {name:?}: did you mean {nearest}?"),
            None => format!("unknown parameter {name:?}: expected one of {}", PARAMETERS.join(", ")),
        })
    })
}

/// Decodes a name or a value that is encoded as in HTML forms: `+` is a space, `%2F` is a slash.
fn decode(encoded: &[u8]) -> Result<Vec<u8>, UsageError> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = after.get(..2).and_then(|digits| str::from_utf8(digits).ok());
                let digits = digits.filter(|digits| !digits.starts_with('+'));
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                rest = after.get(2..).unwrap_or_default();
                byte.ok_or_else(|| {
                    let text = OsStr::from_bytes(encoded);
                    UsageError::new(format!(
                        "invalid escape in {text:?}: expected % and two hexadecimal digits"
                    ))
                })?
            }
            byte => byte,
        });
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::args::{self, Command};
    use super::*;

    fn options(args: &[&str]) -> Options {
        match args::parse(args.iter().map(OsString::from)) {
            Ok(Command::Run(options)) => options,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    #[test]
    fn parameters_replace_options() {
        let given = options(&["--filter", "shop/*/*/*", "--pid", "--omit-zero", "--group-by", "kind"]);
        for (query, expected) in [
            ("", &["--pid", "--omit-zero", "--group-by=kind"][..]),
            ("&", &["--pid", "--omit-zero", "--group-by=kind"]),
            ("group-by=path", &["--pid", "--omit-zero", "--group-by=path"]),
            ("pid=false&omit-zero=false&fields=rss,pss", &["--group-by=kind", "--fields=rss,pss"]),
            (
                "pid&omit-zero=true&fields=rss%2Cpss",
                &["--pid", "--omit-zero", "--group-by=kind", "--fields=rss,pss"],
            ),
            ("%67roup-by=process", &["--pid", "--omit-zero", "--group-by=process"]),
        ] {
            let expected = Options { filters: Vec::new(), ..options(expected) };
            assert_eq!(parse(query.as_bytes(), &given).unwrap(), expected, "{query}");
        }
        let filters = |query: &str| parse(query.as_bytes(), &given).unwrap().filters;
        assert_eq!(
            filters("filter=shop/a/*/*&filter=*/*/*/x+y%2F"),
            options(&["--filter=shop/a/*/*", "--filter=*/*/*/x y/"]).filters
        );
    }

    #[test]
    fn errors_quote_the_value_and_say_what_is_expected() {
        let known = "group-by, filter, pid, fields, omit-zero";
        let unknown = |quoted| format!("unknown parameter {quoted}: expected one of {known}");
        let expected_filter = crate::node::containers::filter::EXPECTED;
        for (query, expected) in [
            (
                "group-by=pod",
                r#"invalid value "pod" for group-by: expected "path", "kind" or "process""#.to_owned(),
            ),
            ("group-by", r#"invalid value "" for group-by: expected "path", "kind" or "process""#.into()),
            ("filter=a/b", format!(r#"invalid value "a/b" for filter: expected {expected_filter}"#)),
            ("filter=%ff", format!(r#"invalid value "\xFF" for filter: expected {expected_filter}"#)),
            ("pid=1", r#"invalid value "1" for pid: expected "true" or "false""#.into()),
            ("pid&pid", r#"unexpected second pid "": expected one"#.into()),
            ("fields=rss&fields=pss", r#"unexpected second fields "pss": expected one"#.into()),
            ("group_by=path", r#"unknown parameter "group_by": did you mean group-by?"#.into()),
            ("x=1", unknown(r#""x""#)),
            ("addr=:1", unknown(r#""addr""#)),
            ("max-samples=0", unknown(r#""max-samples""#)),
            ("pid=%zz", r#"invalid escape in "%zz": expected % and two hexadecimal digits"#.into()),
            ("pid=%4", r#"invalid escape in "%4": expected % and two hexadecimal digits"#.into()),
            ("a%0ab", unknown(r#""a\nb""#)),
        ] {
            let error = parse(query.as_bytes(), &options(&[])).expect_err(query).to_string();
            assert_eq!((&*error, error.lines().count()), (&*expected, 1), "{query}");
        }
        let half = format!("filter={}/*/*/*", "*".repeat(506));
        assert!(parse(format!("{half}&{half}").as_bytes(), &options(&[])).is_ok());
        let error = parse(format!("{half}&{half}&filter=*/*/*/*").as_bytes(), &options(&[])).unwrap_err();
        assert_eq!(error.to_string(), "1031 bytes of filter: expected at most 1024");
    }
}
