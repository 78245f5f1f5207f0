// Parses Prometheus's text format 0.0.4. Each line is parsed in one pass. An invalid line is skipped and has
// no effect on other lines. Label values may contain any character, with the escapes \\, \" and \n.

const isNameStart = c => c >= 97 && c <= 122 || c >= 65 && c <= 90 || c === 95;
const isName = c => isNameStart(c) || c >= 48 && c <= 57;
const isBlank = c => c === 32 || c === 9;

function unescape(text) {
	if (!text.includes('\\')) return text;
	let out = '';
	for (let k = 0; k < text.length; k++) {
		const next = text[k] === '\\' ? text[++k] ?? '' : '';
		out += !next ? text[k] ?? '\\' : next === 'n' ? '\n' : next === '\\' || next === '"' ? next : '\\' + next;
	}
	return out;
}

// Parses labels such as `a="b",c="d"}`, which begin at the position `at`. In the result, `end` is the
// position after the brace. Returns null if the labels are invalid.
function parseLabels(line, at) {
	const labels = new Map(), blanks = () => { while (isBlank(line.charCodeAt(at))) at++; };
	for (;;) {
		blanks();
		if (line[at] === '}') return { labels, end: at + 1 };
		const from = at;
		if (!isNameStart(line.charCodeAt(at))) return null;
		while (isName(line.charCodeAt(at))) at++;
		const name = line.slice(from, at);
		blanks();
		if (line[at++] !== '=') return null;
		blanks();
		if (line[at++] !== '"') return null;
		const begin = at;
		for (let c; (c = line.charCodeAt(at)) !== 34; at++) {
			if (c === 92) at++;
			if (at >= line.length) return null;
		}
		if (labels.has(name)) return null;
		labels.set(name, unescape(line.slice(begin, at++)));
		blanks();
		if (line[at] === ',') at++;
		else if (line[at] !== '}') return null;
	}
}

// Parses the value of a sample. A timestamp may follow the value. Returns null if the text is invalid.
function parseValue(text) {
	const [value, time, ...more] = text.trim().split(/[ \t]+/);
	if (!value || more.length || time !== undefined && !/^-?\d+$/.test(time)) return null;
	const special = /^([+-]?)(inf|infinity|nan)$/i.exec(value);
	if (special) return special[2].toLowerCase() === 'nan' ? NaN : special[1] === '-' ? -Infinity : Infinity;
	const number = Number(value);
	return number !== number || /^0[box]/i.test(value) ? null : number;
}

// Parses `name{labels} value` into { name, labels, value, key }. The key is the text after the opening brace,
// including the closing brace. Returns null if the line is not a sample.
function parseSample(line) {
	let at = 0;
	while (isBlank(line.charCodeAt(at))) at++;
	const start = at;
	if (!isNameStart(line.charCodeAt(at)) && line[at] !== ':') return null;
	while (isName(line.charCodeAt(at)) || line[at] === ':') at++;
	const name = line.slice(start, at);
	while (isBlank(line.charCodeAt(at))) at++;
	let labels = new Map(), key = '';
	if (line[at] === '{') {
		const parsed = parseLabels(line, at + 1);
		if (!parsed) return null;
		labels = parsed.labels;
		key = line.slice(at + 1, parsed.end);
		at = parsed.end;
	} else if (!isBlank(line.charCodeAt(at - 1))) return null;
	const value = parseValue(line.slice(at));
	return value === null ? null : { name, labels, key, value };
}

// Parses `# HELP name text` into { name, text }. Returns null for other comments.
function parseHelp(line) {
	const words = /^#[ \t]+HELP[ \t]+([a-zA-Z_:][\w:]*)[ \t]?/.exec(line);
	return words && { name: words[1], text: unescape(line.slice(words[0].length)) };
}
