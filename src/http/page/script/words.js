'use strict';
// The memory map. It parses the exporter's metrics into a tree of namespaces, pods, containers, commands and
// paths. It shows one place of the tree as a treemap, and shows the same content as a table.
//
// The parts of the script share one scope, in the order of mod.rs. The parts up to layout.js do not use the
// document, so tests/page can run them in Node.
//
// Names come from workloads and may contain anything. In the document they are used only as text nodes and
// attribute values. On the canvas they are drawn by fillText. In the address they are encoded by
// encodeURIComponent, and in PromQL by quote(). Styles are set by classes or through the CSSOM, because the
// Content-Security-Policy forbids style attributes.
//
// This part turns numbers and names into text.

const { max, min, round, floor, ceil, abs } = Math;

const count = v => isFinite(v) ? v.toLocaleString('en').replace('-', '−') : '–';
function size(v) {
	let u = 0, x = abs(v);
	for (; x >= 1023.5 && u < 5; u++) x /= 1024;
	if (v !== v) return '–';
	return v ? (v < 0 ? '−' : '') + x.toFixed(u && x < 99.95 ? x < 9.995 ? 2 : 1 : 0) + ' '
		+ ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'][u] : '0';
}
const show = (f, v) => f.bytes ? size(v) : count(v);
const percent = v => v >= 0 ? (100 * v).toFixed(v < .0995 ? 1 : 0) + '\u2009%' : '–';
function span(s) {
	return s < .0995 ? (1000 * s).toFixed(s < .00995 ? 1 : 0) + ' ms' : s < 120 ? s.toFixed(s < 9.95 ? 1 : 0)
		+ ' s'
		: s < 7200 ? round(s / 60) + ' min' : round(s / 3600) + ' h';
}
// Returns the text for the speed at which a value grows. `v` is the growth per second. The text has the
// growth per minute, in MiB if the field has bytes.
function slope(f, v) {
	if (v !== v) return '';
	const x = f.bytes ? v * 60 / 1048576 : v * 60, digits = abs(x) < 9.995 ? 2 : abs(x) < 99.95 ? 1 : 0,
		text = abs(x).toFixed(digits);
	return (+text ? x > 0 ? '+' : '−' : '±') + (+text ? text : '0') + (f.bytes ? ' MiB/min' : ' a minute');
}
const clock = t => new Date(t * 1000).toTimeString().slice(0, 8);
const title = name => name === 'uss' ? 'Private to single processes' : name.replace(/_/g, ' ')
	.replace(/\b([prum]ss|ksm|mmu)\b/g, w => w.toUpperCase()).replace(/^./, c => c.toUpperCase());

// Matches control characters, invisible characters, characters that reverse text, and unusual spaces.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Default_Ignorable_Code_Point}\u2800]|(?! )\p{Zs}/gu;
// Returns a name as it is displayed. Misleading characters are replaced. A control character is replaced by
// its picture. An invisible character, a character that reverses text, or an unusual space is replaced by its
// code point. A space at either end is replaced by a mark.
function visible(text) {
	if (/^[!-~]*$/.test(text)) return text;
	return text.replace(UNSEEN, c => {
		const code = c.codePointAt();
		return code < 32 ? String.fromCharCode(0x2400 + code) : code === 127
			? '␡' : `⟨U+${code.toString(16).toUpperCase().padStart(4, '0')}⟩`;
	}).replace(/^ +| +$/g, spaces => '␠'.repeat(spaces.length));
}

// Shortens a text to a width. Removes characters from the middle, because names of replicas differ at their
// ends. Returns an empty text if fewer than five characters would be left.
function fit(text, width, measure) {
	if (text.length < 300 && measure(text) <= width) return text;
	const chars = [...text.slice(0, 150), ...text.slice(max(150, text.length - 150))];
	for (let keep = chars.length - 1; keep > 4;) {
		const tail = ceil(keep / 2), cut = chars.slice(0, keep - tail).join('') + '…' + chars.slice(-tail)
			.join(''), long = measure(cut);
		if (long <= width) return cut;
		keep = min(keep - 1, floor(keep * width / long));
	}
	return '';
}

// Returns the shortest end of a path that no other path in the list has. The end consists of whole
// components. For example, it is chunks_head/000001 for /data/chunks_head/000001 if the list also has
// /data/wal/000001.
function shortest(path, others) {
	for (let at = path.lastIndexOf('/'); at > 0; at = path.lastIndexOf('/', at - 1)) {
		const end = path.slice(at);
		if (!others.some(other => other !== path && other.endsWith(end))) return end.slice(1);
	}
	return path;
}
