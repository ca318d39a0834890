//! The options of `qsub` and where they come from.
//!
//! Later wins: the cell's file `config/sge_request`, `~/.sge_request`, `./.sge_request`, lines of the script that begin with the
//! prefix (`#$`), the command line. `-clear` drops what was set so far.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::ARRAY_TASKS_MAX;
use crate::plan::TaskRange;

/// How deep files may name files by `-@`.
const NESTING_MAX: u32 = 8;

/// What the options say. A field that is `None` wasn't given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `-N`
    pub name: Option<String>,
    /// `-cwd`, `-wd`: an absolute path, or `Some(None)` for the directory `qsub` runs in.
    pub directory: Option<Option<String>>,
    /// `-o`
    pub stdout: Option<String>,
    /// `-e`
    pub stderr: Option<String>,
    /// `-i`
    pub stdin: Option<String>,
    /// `-j`
    pub join: Option<bool>,
    /// `-b`
    pub binary: Option<bool>,
    /// `-shell`
    pub shell: Option<bool>,
    /// `-S`
    pub interpreter: Option<String>,
    /// `-C`
    pub prefix: Option<String>,
    /// `-t`
    pub array: Option<TaskRange>,
    /// `-tc`
    pub task_limit: Option<u32>,
    /// `-v`: names with the values given; `None`: the value of the submitter's environment.
    pub variables: BTreeMap<String, Option<String>>,
    /// `-V`
    pub all_variables: bool,
    /// `-sync`
    pub sync: Option<bool>,
    /// `-terse`
    pub terse: bool,
    /// `-h`
    pub hold: bool,
    /// `-r`
    pub rerun: Option<bool>,
    /// `-p`
    pub priority: Option<i32>,
    /// `-A`
    pub account: Option<String>,
    /// `-q`
    pub queues: Option<String>,
    /// `-verify`
    pub verify: bool,
}

impl Options {
    /// Adds `later`, which wins.
    pub fn merge(&mut self, later: Options) {
        macro_rules! take {
            ($($field:ident)*) => { $( if later.$field.is_some() { self.$field = later.$field; } )* };
        }
        take!(name directory stdout stderr stdin join binary shell interpreter prefix array task_limit sync rerun priority account queues);
        self.variables.extend(later.variables);
        self.all_variables |= later.all_variables;
        self.terse |= later.terse;
        self.hold |= later.hold;
        self.verify |= later.verify;
    }
}

/// What a list of words says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The options.
    pub options: Options,
    /// `-clear` was among them: what came before is dropped.
    pub clear: bool,
    /// `-help`, `--help`
    pub help: bool,
    /// The first word that isn't an option, and all after it.
    pub rest: Vec<String>,
}

/// Options Grid Engine has and this release doesn't, with the number of their values.
const UNSUPPORTED: &[(&str, usize)] = &[
    ("-a", 1),
    ("-ac", 1),
    ("-ar", 1),
    ("-binding", 1),
    ("-c", 1),
    ("-ckpt", 1),
    ("-dc", 1),
    ("-display", 1),
    ("-dl", 1),
    ("-hard", 0),
    ("-hold_jid", 1),
    ("-hold_jid_ad", 1),
    ("-js", 1),
    ("-jsv", 1),
    ("-l", 1),
    ("-m", 1),
    ("-M", 1),
    ("-masterq", 1),
    ("-notify", 0),
    ("-now", 1),
    ("-P", 1),
    ("-pe", 2),
    ("-pty", 1),
    ("-R", 1),
    ("-sc", 1),
    ("-soft", 0),
    ("-w", 1),
];

/// Parses words as options until the first that isn't one.
///
/// # Errors
/// One clear line on the first wrong option.
pub fn parse(words: Vec<String>) -> Result<Parsed, String> {
    parse_nested(words, 0)
}

fn parse_nested(words: Vec<String>, depth: u32) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.rest = words.collect();
            break;
        }
        if !word.starts_with('-') || word == "-" {
            parsed.rest = std::iter::once(word).chain(words).collect();
            break;
        }
        let mut value = || words.next().ok_or_else(|| format!("option {word} needs a value"));
        let o = &mut parsed.options;
        match word.as_str() {
            "-N" => o.name = Some(value()?),
            "-cwd" => o.directory = Some(None),
            "-wd" => o.directory = Some(Some(filled(&word, value()?)?)),
            "-o" => o.stdout = Some(filled(&word, value()?)?),
            "-e" => o.stderr = Some(filled(&word, value()?)?),
            "-i" => o.stdin = Some(filled(&word, value()?)?),
            "-j" => o.join = Some(yes_no(&word, &value()?)?),
            "-b" => o.binary = Some(yes_no(&word, &value()?)?),
            "-shell" => o.shell = Some(yes_no(&word, &value()?)?),
            "-S" => o.interpreter = Some(interpreter(&value()?)?),
            "-C" => o.prefix = Some(value()?),
            "-t" => o.array = Some(tasks(&value()?)?),
            "-tc" => o.task_limit = Some(number(&word, &value()?)?),
            "-v" => o.variables.extend(variables(&value()?)?),
            "-V" => o.all_variables = true,
            "-sync" => o.sync = Some(yes_no(&word, &value()?)?),
            "-terse" => o.terse = true,
            "-h" => o.hold = true,
            "-r" => o.rerun = Some(yes_no(&word, &value()?)?),
            "-p" => o.priority = Some(priority(&value()?)?),
            "-A" => o.account = Some(filled(&word, value()?)?),
            "-q" => o.queues = Some(filled(&word, value()?)?),
            "-verify" => o.verify = true,
            "-help" | "--help" => parsed.help = true,
            "-clear" => {
                parsed.clear = true;
                parsed.options = Options::default();
            }
            "-@" => {
                let file = value()?;
                if depth == NESTING_MAX {
                    return Err(format!("option -@ {file}: more than {NESTING_MAX} files name each other"));
                }
                let text = std::fs::read_to_string(&file)
                    .map_err(|e| format!("option -@: can't read {file}: {e}"))?;
                let inner = parse_nested(file_words(&text).map_err(|e| format!("{file}: {e}"))?, depth + 1)
                    .map_err(|e| format!("{file}: {e}"))?;
                if let Some(extra) = inner.rest.first() {
                    return Err(format!("{file}: {extra:?} isn't an option"));
                }
                if inner.clear {
                    parsed.clear = true;
                    parsed.options = Options::default();
                }
                parsed.options.merge(inner.options);
            }
            other => {
                return Err(if UNSUPPORTED.iter().any(|(name, _)| *name == other) {
                    format!("option {other} isn't supported by this release")
                } else {
                    format!("unknown option {other:?} (qsub --help lists them)")
                });
            }
        }
    }
    Ok(parsed)
}

fn filled(option: &str, value: String) -> Result<String, String> {
    if value.is_empty() { Err(format!("option {option} needs a value that isn't empty")) } else { Ok(value) }
}

fn yes_no(option: &str, value: &str) -> Result<bool, String> {
    match value {
        "y" | "yes" => Ok(true),
        "n" | "no" => Ok(false),
        _ => Err(format!("option {option} takes y or n, not {value:?}")),
    }
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("option {option} takes a number, not {value:?}"))
}

fn priority(value: &str) -> Result<i32, String> {
    let n: i32 = number("-p", value)?;
    if (-1023..=1024).contains(&n) {
        Ok(n)
    } else {
        Err(format!("invalid priority {n}, must be an integer from -1023 to 1024"))
    }
}

fn interpreter(value: &str) -> Result<String, String> {
    let path = value.split(',').next().and_then(|p| p.rsplit(':').next()).unwrap_or_default();
    if path.starts_with(['/', '$', '~']) {
        Ok(value.to_owned())
    } else {
        Err(format!("option -S takes an absolute path, not {value:?}"))
    }
}

/// `n[-m[:s]]`.
///
/// # Errors
/// One clear line.
pub fn tasks(value: &str) -> Result<TaskRange, String> {
    let wrong =
        || format!("\"{value}\" is not a valid range of tasks: n[-m[:s]] with 1 <= n <= m and s >= 1");
    let parse = |t: &str| -> Result<u64, String> {
        if t.bytes().all(|b| b.is_ascii_digit()) { t.parse().map_err(|_| wrong()) } else { Err(wrong()) }
    };
    let (range, step) = match value.split_once(':') {
        Some((range, step)) => (range, parse(step)?),
        None => (value, 1),
    };
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (parse(first)?, parse(last)?),
        None => {
            if value.contains(':') {
                return Err(wrong());
            }
            let n = parse(range)?;
            (n, n)
        }
    };
    let tasks = TaskRange::new(first, last, step).ok_or_else(wrong)?;
    if tasks.count() > ARRAY_TASKS_MAX || last > i32::MAX.cast_unsigned().into() {
        return Err(format!(
            "job rejected: an array job may have at most {ARRAY_TASKS_MAX} tasks, \"{value}\" has {}",
            tasks.count()
        ));
    }
    Ok(tasks)
}

/// `NAME[=VALUE],...`; a comma in a value can be written `\,`.
fn variables(list: &str) -> Result<BTreeMap<String, Option<String>>, String> {
    let mut out = BTreeMap::new();
    let mut entries = vec![String::new()];
    let mut escaped = false;
    for c in list.chars() {
        match (c, escaped) {
            (',', false) => entries.push(String::new()),
            ('\\', false) => {
                escaped = true;
                continue;
            }
            (c, _) => {
                if let Some(last) = entries.last_mut() {
                    if escaped && c != ',' {
                        last.push('\\');
                    }
                    last.push(c);
                }
            }
        }
        escaped = false;
    }
    for entry in entries {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (entry.as_str(), None),
        };
        if name.is_empty() || name.contains('\0') {
            return Err(format!("option -v: {entry:?} isn't NAME or NAME=VALUE"));
        }
        out.insert(name.to_owned(), value);
    }
    Ok(out)
}

/// Splits a line as a shell would, as far as quotes and backslashes go.
///
/// # Errors
/// When a quote isn't closed.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('"') | None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("a quote isn't closed in {line:?}"));
    }
    words.extend(word);
    Ok(words)
}

/// The words of a file of options: `#` begins a comment line.
fn file_words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    for line in text.lines().filter(|l| !l.trim_start().starts_with('#')) {
        words.extend(split(line)?);
    }
    Ok(words)
}

/// Options of a `sge_request` file; nothing when there is none.
///
/// # Errors
/// One clear line that names the file.
pub fn from_file(path: &Path) -> Result<Parsed, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e)
            if e.kind() == std::io::ErrorKind::NotFound || e.kind() == std::io::ErrorKind::NotADirectory =>
        {
            return Ok(Parsed::default());
        }
        Err(e) => return Err(format!("can't read {}: {e}", path.display())),
    };
    let name = |e: String| format!("{}: {e}", path.display());
    let parsed = parse(file_words(&text).map_err(name)?).map_err(name)?;
    match parsed.rest.first() {
        Some(extra) => Err(name(format!("{extra:?} isn't an option"))),
        None => Ok(parsed),
    }
}

/// Options of a script's lines that begin with `prefix`. `-C` in them is ignored.
///
/// # Errors
/// One clear line that names the line.
pub fn from_script(script: &[u8], prefix: &str) -> Result<Parsed, String> {
    let mut all = Parsed::default();
    if prefix.is_empty() {
        return Ok(all);
    }
    for (number, line) in script.split(|b| *b == b'\n').enumerate() {
        let Some(rest) = line.strip_prefix(prefix.as_bytes()) else { continue };
        let at = |e: String| format!("line {} of the script: {e}", number + 1);
        let text = String::from_utf8_lossy(rest);
        let mut parsed = parse(split(text.trim()).map_err(at)?).map_err(at)?;
        if let Some(extra) = parsed.rest.first().filter(|w| !w.starts_with('#')) {
            return Err(at(format!("{extra:?} isn't an option")));
        }
        parsed.options.prefix = None;
        if parsed.clear {
            all = Parsed { clear: true, ..Parsed::default() };
        }
        all.options.merge(parsed.options);
    }
    Ok(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        split(text).unwrap()
    }

    #[test]
    fn the_documented_options_are_understood() {
        let p = parse(words(
            "-N x -cwd -o o -e e -j y -t 2-10:2 -v 'A,B=1,C=a\\,b' -V -sync y -terse -h -b n -S /bin/bash -r y -C '#%' -p -5 s.sh a -N",
        ))
        .unwrap();
        let o = p.options;
        assert_eq!(p.rest, ["s.sh", "a", "-N"]);
        assert_eq!(
            (o.name.as_deref(), o.directory, o.join, o.sync),
            (Some("x"), Some(None), Some(true), Some(true))
        );
        assert_eq!(o.array, TaskRange::new(2, 10, 2));
        assert_eq!(o.variables["A"], None);
        assert_eq!(o.variables["B"].as_deref(), Some("1"));
        assert_eq!(o.variables["C"].as_deref(), Some("a,b"));
        assert_eq!((o.terse, o.hold, o.all_variables, o.priority), (true, true, true, Some(-5)));
    }

    #[test]
    fn wrong_options_are_named_in_one_line() {
        for (bad, word) in [
            ("-zz", "unknown option \"-zz\""),
            ("-N", "-N needs a value"),
            ("-j maybe", "y or n"),
            ("-t 0-3", "valid range"),
            ("-t 5-3", "valid range"),
            ("-t 1-3:0", "valid range"),
            ("-t a", "valid range"),
            ("-t 1-", "valid range"),
            ("-t -3", "valid range"),
            ("-t 1-99999999999999999999", "valid range"),
            ("-t 1-75001", "at most 75000"),
            ("-tc x", "takes a number"),
            ("-p 9999", "from -1023 to 1024"),
            ("-v =3", "NAME"),
            ("-S sh", "absolute"),
            ("-pe smp 4", "isn't supported by this release"),
            ("-@ /no/such/file", "can't read"),
            ("-o ''", "isn't empty"),
        ] {
            let error = parse(words(bad)).unwrap_err();
            assert!(error.contains(word) && !error.contains('\n'), "{bad}: {error}");
        }
    }

    #[test]
    fn script_lines_count_only_at_the_very_beginning_of_a_line() {
        let script = b"#!/bin/sh\n#$ -N one -j y\n  #$ -N two\n# $ -N three\necho '#$ -N four'\n#$ -S /bin/bash # why\n#$\n";
        let p = from_script(script, "#$").unwrap();
        assert_eq!(p.options.name.as_deref(), Some("one"));
        assert_eq!(p.options.interpreter.as_deref(), Some("/bin/bash"));
        assert_eq!(from_script(script, "").unwrap(), Parsed::default());
        assert!(from_script(b"\n#$ -bogus\n", "#$").unwrap_err().contains("line 2"));
    }

    #[test]
    fn later_options_win_and_clear_drops_the_earlier() {
        let mut o = parse(words("-N a -v X=1 -o p")).unwrap().options;
        o.merge(parse(words("-N b -v Y=2")).unwrap().options);
        assert_eq!((o.name.as_deref(), o.stdout.as_deref(), o.variables.len()), (Some("b"), Some("p"), 2));
        let p = parse(words("-N a -clear -o p")).unwrap();
        assert!(p.clear && p.options.name.is_none() && p.options.stdout.is_some());
    }

    #[test]
    fn a_file_that_names_itself_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, format!("-N x\n-@ {}\n", path.display())).unwrap();
        assert!(
            parse(vec!["-@".into(), path.to_string_lossy().into_owned()]).unwrap_err().contains("more than")
        );
    }
}
