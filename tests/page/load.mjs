// Loads the parts of the page's script that work without a browser's document. The parts are joined in the
// order of mod.rs. Each call of `load` returns a new copy.

import { readFileSync } from 'node:fs';

const page = new URL('../../src/http/page/', import.meta.url);
const parts = [...readFileSync(new URL('mod.rs', page), 'utf8')
	.matchAll(/include_str!\("(script\/(\w+)\.js)"\)/g)];
const names = 'size span slope percent title visible fit shortest unescape parseLabels parseValue '
	+ 'parseSample parseHelp kindOf fields series root live at read commit getPivot search targetOf entered '
	+ 'outsideOf insideOf kidsOf mark begin remember change matters '
	+ 'slopeOf dotsOf fastest rangeOf lineOf pack unpack squarify layOut weigh hitIn since isNew '
	+ 'barOf entriesOf accountOf accountOfKill containersOf readOoms';

export const sources = parts.map(([, path, name]) =>
	({ name, text: readFileSync(new URL(path, page), 'utf8') }));
export function load() {
	const last = sources.findIndex(({ name }) => name === 'layout');
	const source = sources.slice(0, last + 1).map(({ text }) => text).join('');
	return new Function(`${source}\nreturn { ${names.split(' ').join(', ')}, nodes: () => nodes, spans, `
		+ `setMarked: s => { marked = s; },
		accounts: () => accounts, ofNode: () => ofNode, excesses, setLayer: name => { layer = name; } };`)();
}

// Returns a generator of random numbers (mulberry32). The same seed always gives the same numbers.
export function randomFrom(seed) {
	return () => {
		seed = seed + 0x6d2b79f5 | 0;
		let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
		t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
		return ((t ^ t >>> 14) >>> 0) / 4294967296;
	};
}

const escaped = text => text.replace(/[\\"\n]/g, c => c === '\n' ? '\\n' : '\\' + c);
// Returns one line of an exposition.
export const line = (name, labels, value) =>
	`${name}{${Object.entries(labels).map(([k, v]) => `${k}="${escaped(v)}"`).join(',')}} ${value}`;
// Returns an exposition with the samples { pss: [[labels, value], ...], ... }, and the lines `own` about the
// exporter itself.
export function exposition(families, own = '') {
	const lines = Object.entries(families).flatMap(([field, list]) => {
		const name = field === 'mappings' || field === 'processes' ? `process_smaps_${field}`
			: `process_smaps_${field}_bytes`;
		return [`# HELP ${name} ${field}`, `# TYPE ${name} gauge`, ...list.map(([labels, value]) => line(name,
			labels, value))];
	});
	return lines.join('\n') + '\n' + own;
}
export const place = (namespace, pod, container, comm, path) => ({ namespace, pod, container, comm, path });
