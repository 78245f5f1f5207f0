// Compares the parser of the text format with a second one, which is a state machine over single characters.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { line, load, randomFrom, sources } from './load.mjs';

function parseBySteps(text) {
	let state = 'name',
		name = '',
		label = '',
		value = '',
		number = '';
	const labels = [];
	for (const c of text) {
		if (state === 'name') {
			if (c === '{') state = 'label';
			else if (c === ' ') state = 'number';
			else name += c;
		} else if (state === 'label') {
			if (c === '}') state = 'number';
			else if (c === '=') state = 'quote';
			else if (c !== ',') label += c;
		} else if (state === 'quote') {
			state = 'value';
		} else if (state === 'escape') {
			value += { n: '\n', '"': '"', '\\': '\\' }[c] ?? '\\' + c;
			state = 'value';
		} else if (state === 'value') {
			if (c === '\\') state = 'escape';
			else if (c === '"') {
				labels.push([label, value]);
				label = value = '';
				state = 'label';
			} else value += c;
		} else number += c;
	}
	return { name, labels, value: Number(number) };
}

// Characters that may break a parser: delimiters, all line ends, astral characters and lone surrogates.
const ALPHABET = [
	'a',
	'b',
	'=',
	',',
	'"',
	'\\',
	'{',
	'}',
	' ',
	'\t',
	'\n',
	'\r',
	'n',
	'#',
	'/',
	'=" ',
	'",',
	'"}',
	'\\n',
	'} 1',
	'\0',
	'\x7f',
	'\x85',
	'\u2028',
	'\u2029',
	'\u202e',
	'\ufeff',
	'\ufffd',
	'é',
	'ש',
	'🐏',
	'\ud800',
	'__proto__',
	'constructor',
];

test('labels with any characters are parsed correctly', () => {
	const { parseSample } = load(),
		random = randomFrom(1);
	const name = () =>
		Array.from({ length: random() * 12 }, () => ALPHABET[Math.floor(random() * ALPHABET.length)]).join(
			'',
		);
	for (let round = 0; round < 20000; round++) {
		const labels = Object.fromEntries(
			['namespace', 'pod', 'container', 'comm', 'path'].map(key => [key, name()]),
		);
		const value = Math.floor(random() * 1e12),
			text = line('process_smaps_pss_bytes', labels, value);
		const sample = parseSample(text),
			other = parseBySteps(text);
		assert.deepEqual([...sample.labels], Object.entries(labels), text);
		assert.deepEqual([...sample.labels], other.labels, text);
		assert.deepEqual([sample.name, sample.value], [other.name, other.value]);
		assert.equal(sample.key, text.slice(text.indexOf('{') + 1, text.lastIndexOf('}') + 1));
	}
});

test('all variants that the format allows are parsed', () => {
	const { parseSample } = load();
	for (const [text, name, labels, value] of [
		['x 1', 'x', [], 1],
		['x{} 1', 'x', [], 1],
		['x{a="b",} 1', 'x', [['a', 'b']], 1],
		[
			'x { a = "b" , c = "" }\t1.5e3',
			'x',
			[
				['a', 'b'],
				['c', ''],
			],
			1500,
		],
		['x{a="\\\\\\"\\n\\t"} -1', 'x', [['a', '\\"\n\\t']], -1],
		['x 1 1395066363000', 'x', [], 1],
		['x +Inf', 'x', [], Infinity],
		['x{a="="} -Inf', 'x', [['a', '=']], -Infinity],
		['x NaN', 'x', [], NaN],
		['a:b 0', 'a:b', [], 0],
		['x 1\r', 'x', [], 1],
	]) {
		const sample = parseSample(text);
		assert.deepEqual(
			[sample?.name, [...(sample?.labels || [])], sample?.value],
			[name, labels, value],
			text,
		);
	}
});

test('invalid lines are no samples and raise no exception', () => {
	const { parseSample } = load();
	const broken = [
		'',
		' ',
		'x',
		'x ',
		'x y',
		'x 1 2 3',
		'x 1 y',
		'1x 1',
		'x{ 1',
		'x{a} 1',
		'x{a=} 1',
		'x{a="} 1',
		'x{a="b} 1',
		'x{a="b"',
		'x{a="b" c="d"} 1',
		'x{a="b",,} 1',
		'x{,} 1',
		'x{a="\\',
		'x{a="b\\"} 1',
		'x{a="b"}',
		'x{a="1",a="2"} 1',
		'x 0x10',
		'{a="b"} 1',
		'# HELP x',
		'x{1="b"} 1',
		'é 1',
	];
	for (const text of broken) assert.equal(parseSample(text), null, text);
	const whole = line('x', { a: 'b\\"\n', path: '/tmp/a,b=' }, 1);
	for (let end = 0; end < whole.length; end++)
		assert.equal(parseSample(whole.slice(0, end)), null, whole.slice(0, end));
});

test('help texts are parsed', () => {
	const { parseHelp } = load();
	assert.deepEqual(parseHelp('# HELP x_bytes Back\\\\slash and\\nline.'), {
		name: 'x_bytes',
		text: 'Back\\slash and\nline.',
	});
	assert.deepEqual(parseHelp('# HELP x'), { name: 'x', text: '' });
	for (const text of ['# TYPE x gauge', '# a comment', '#', '# HELP', '# HELP 1 x'])
		assert.equal(parseHelp(text), null, text);
});

test('parsing takes time linear in the length of a line', () => {
	const { parseSample } = load();
	for (const c of ['a', '\\\\', ',b=', '=', '\\"']) {
		const path = c.repeat(2e6 / c.length),
			sample = parseSample(`x{path="${path}"} 1`);
		assert.equal(sample.value, 1);
	}
});

test('each part of the script is short and has a comment at its top', () => {
	for (const { name, text } of sources) {
		assert.ok(text.split('\n').length < 300, name);
		assert.match(text, /^('use strict';\n)?\/\/ /, `${name} has no comment at its top`);
	}
});
