// Tests the page's trees of namespaces, pods, containers, processes and paths, the search in these trees, and
// how the page displays names and numbers.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { exposition, line, load, place, randomFrom } from './load.mjs';

const PATHS = ['/usr/lib/libc.so.6', '[heap]', '[anon]', '/dev/zero (deleted)'];
function shop(pods, paths = PATHS, value = (pod, k) => (pod + 1) * (k + 1) * 4096) {
	return pods.flatMap(pod =>
		paths.map((path, k) => [
			place(pod % 2 ? 'shop' : 'infra', `pod-${pod}`, 'app', 'java', path),
			value(pod, k),
		]),
	);
}
async function readInto(page, text) {
	const answer = await page.read(text);
	page.commit();
	return answer;
}
const find = (page, ...names) => names.reduce((n, name) => n?.by.get(name), page.root);

test('parents are the sums of their children, and ended places disappear', async () => {
	const page = load();
	await readInto(page, exposition({ pss: shop([0, 1, 2, 3]) }));
	const pss = page.fields.get('pss');
	assert.equal(
		page.at(pss, page.root),
		shop([0, 1, 2, 3]).reduce((sum, [, v]) => sum + v, 0),
	);
	assert.equal(page.at(pss, find(page, 'shop', 'pod-3')), 4 * 10 * 4096);
	assert.deepEqual(
		page
			.insideOf(page.root)
			.map(n => n.full)
			.sort(),
		['infra/pod-0', 'infra/pod-2', 'shop/pod-1', 'shop/pod-3'],
	);
	await readInto(page, exposition({ pss: shop([1, 2]) }));
	assert.deepEqual(
		page
			.insideOf(page.root)
			.map(n => n.full)
			.sort(),
		['infra/pod-2', 'shop/pod-1'],
	);
	assert.ok(Number.isNaN(page.at(pss, find(page, 'shop', 'pod-3'))));
});

test('samples with any names are stored separately', async () => {
	const page = load(),
		random = randomFrom(2),
		alphabet = [
			'a',
			',',
			'=',
			'"',
			'\\',
			'}',
			'{',
			' ',
			'\n',
			'\u2028',
			'/',
			'__proto__',
			'",path="',
			'\ufffd',
		];
	const name = () =>
		Array.from({ length: 1 + random() * 5 }, () => alphabet[Math.floor(random() * alphabet.length)]).join(
			'',
		);
	const list = new Map();
	for (let k = 0; k < 3000; k++) {
		const labels = place(name(), name(), name(), name(), name());
		list.set(JSON.stringify(labels), [labels, 1 + k]);
	}
	for (const text of [
		exposition({ pss: [...list.values()], mappings: [...list.values()] }),
		exposition({ mappings: [...list.values()].reverse(), pss: [...list.values()] }),
	]) {
		const { broken } = await readInto(page, text);
		assert.equal(broken, 0);
		for (const [labels, value] of list.values()) {
			assert.equal(page.at(page.fields.get('pss'), find(page, ...Object.values(labels))), value);
			assert.equal(page.at(page.fields.get('mappings'), find(page, ...Object.values(labels))), value);
		}
	}
});

test('unusual file names are stored and shown', async () => {
	const page = load(),
		list = [
			'/memfd:a\u2028b (deleted)',
			'/memfd:a\u2029b (deleted)',
			'/tmp/a,b=',
			'/tmp/a,b=,c=',
			'=",',
			'/tmp/a\nb',
			'/',
			'/x/',
		].map((path, k) => [place('n', 'p', 'c', 'd', path), 1 + k]);
	const { broken } = await readInto(page, exposition({ pss: list }));
	assert.equal(broken, 0);
	const comm = find(page, 'n', 'p', 'c', 'd');
	assert.deepEqual(
		comm.kids.map(n => [n.name, page.at(page.fields.get('pss'), n)]),
		list.map(([{ path }, v]) => [path, v]),
	);
	assert.ok(comm.kids.every(n => n.text && n.full));
});

test('an invalid line does not affect other lines', async () => {
	const page = load(),
		[good, other] = shop([1], ['/a', '/b']).map(([labels, v]) =>
			line('process_smaps_pss_bytes', labels, v),
		);
	const { broken, own } = await readInto(
		page,
		[
			good,
			good.slice(0, -20),
			'process_smaps_pss_bytes{a="b"} 1',
			'process_smaps_pss_bytes 5',
			other,
			'cgroup_memory_current_bytes{pod="x"} 1',
			'unheard_of{',
			'smaps_exporter_containers 3',
			'smaps_exporter_filter_info{filter="a\\"}"} 1',
		].join('\n'),
	);
	assert.equal(broken, 3);
	assert.equal(page.at(page.fields.get('pss'), page.root), 3 * 4096 * 2);
	assert.deepEqual([...own.keys()], ['smaps_exporter_containers', 'smaps_exporter_filter_info']);
	assert.equal(own.get('smaps_exporter_filter_info')[0].labels.get('filter'), 'a"}');
	assert.deepEqual([...page.fields.keys()], ['pss']);
});

test('USS is the sum of two families, each of which may lack a series', async () => {
	const page = load(),
		[a, b, c] = shop([1], ['/a', '/b', '/c']).map(([labels]) => labels);
	await readInto(
		page,
		exposition({
			private_clean: [
				[a, 1],
				[b, 2],
			],
			private_dirty: [
				[b, 10],
				[c, 20],
			],
		}),
	);
	const uss = page.fields.get('uss');
	assert.deepEqual(
		[a, b, c].map(labels => page.at(uss, find(page, ...Object.values(labels)))),
		[1, 12, 20],
	);
	assert.equal(page.at(uss, page.root), 33);
});

test('the tree by path has the same sums', async () => {
	const page = load(),
		list = shop([0, 1, 2, 3]),
		pss = () => page.fields.get('pss');
	await readInto(page, exposition({ pss: list }));
	const pivot = page.getPivot();
	for (const path of PATHS) {
		const n = pivot.by.get(path);
		assert.equal(
			page.at(pss(), n),
			list.filter(([labels]) => labels.path === path).reduce((sum, [, v]) => sum + v, 0),
		);
		assert.equal(
			page.at(pss(), n.by.get('shop').by.get('pod-3').by.get('java')),
			list.find(([labels]) => labels.path === path && labels.pod === 'pod-3')[1],
		);
		assert.equal(page.insideOf(n).length, 4);
	}
	// The tree by path changes when pods and paths appear and disappear.
	await readInto(page, exposition({ pss: shop([3, 4], ['[heap]', '/new']) }));
	assert.deepEqual(
		page
			.kidsOf(pivot)
			.map(n => n.name)
			.sort(),
		['/new', '[heap]'],
	);
	assert.deepEqual(
		page
			.insideOf(pivot.by.get('[heap]'))
			.map(n => n.name)
			.sort(),
		['pod-3', 'pod-4'],
	);
});

test('a search finds all places below, with one row and a sum for each path', async () => {
	const page = load();
	await readInto(page, exposition({ pss: shop([0, 1, 2, 3]) }));
	const rows = page.search(page.root, 'libc'),
		[row] = rows;
	assert.equal(rows.length, 1);
	assert.deepEqual(
		[row.full, row.note, page.at(page.fields.get('pss'), row)],
		['/usr/lib/libc.so.6', 'in 4 pods', 10 * 4096],
	);
	assert.equal(page.targetOf(row), page.getPivot().by.get('/usr/lib/libc.so.6'));
	assert.equal(page.search(page.root, 'libc')[0], row, 'the next scrape made another row');
	const [pod] = page.search(page.root, 'pod-2');
	assert.deepEqual([pod.full, page.targetOf(pod)], ['infra/pod-2', find(page, 'infra', 'pod-2')]);
	assert.deepEqual(
		page
			.search(page.root, 'java')
			.map(n => n.note)
			.sort(),
		[0, 1, 2, 3].map(k => `${k % 2 ? 'shop' : 'infra'}/pod-${k} › app`).sort(),
	);
	const inside = page.search(find(page, 'shop', 'pod-1'), 'heap');
	assert.deepEqual(
		inside.map(n => [n.full, page.targetOf(n)]),
		[['[heap]', find(page, 'shop', 'pod-1', 'app', 'java', '[heap]')]],
	);
	assert.deepEqual(page.search(page.root, 'nothing'), []);
	page.mark(page.root, 'libc', 7);
	assert.equal(find(page, 'infra').near, 7);
	assert.equal(find(page, 'infra', 'pod-0', 'app', 'java', '/usr/lib/libc.so.6').hit, 7);
	assert.equal(find(page, 'infra', 'pod-0', 'app', 'java', '[heap]').near, undefined);
});

test('entering and leaving a pod skips its only container', async () => {
	const page = load();
	await readInto(
		page,
		exposition({
			pss: [
				[place('n', 'one', 'app', 'a', '/x'), 1],
				[place('n', 'two', 'app', 'a', '/x'), 1],
				[place('n', 'two', 'proxy', 'a', '/x'), 1],
			],
		}),
	);
	const [one, two] = [find(page, 'n', 'one'), find(page, 'n', 'two')];
	assert.equal(page.entered(one), one.kids[0]);
	assert.equal(page.entered(two), two);
	assert.equal(page.outsideOf(one.kids[0]), find(page, 'n'));
	assert.equal(page.outsideOf(two.kids[0]), two);
	assert.equal(page.outsideOf(find(page, 'n')), page.root);
});

test('invisible characters are displayed by name', () => {
	const { visible } = load();
	for (const [name, shown] of [
		['a b', 'a b'],
		['a\nb', 'a␊b'],
		['\x7f', '␡'],
		['a\u2028b', 'a⟨U+2028⟩b'],
		['\u202etxt', '⟨U+202E⟩txt'],
		['a\u00a0b', 'a⟨U+00A0⟩b'],
		['\u200b', '⟨U+200B⟩'],
		['\u3164', '⟨U+3164⟩'],
		['\u{e0041}', '⟨U+E0041⟩'],
		[' a  ', '␠a␠␠'],
		['שלום 🐏', 'שלום 🐏'],
		['\ud800', '⟨U+D800⟩'],
		['\x85', '⟨U+0085⟩'],
	])
		assert.equal(visible(name), shown);
});

test('names are cut in the middle, and files with equal names show enough folders to differ', () => {
	const { fit, shortest } = load(),
		measure = text => [...text].length;
	assert.equal(fit('checkout-7d9f8b6c5d-0007z', 15, measure), 'checkou…d-0007z');
	assert.equal(fit('short', 15, measure), 'short');
	assert.equal(fit('anything', 2, measure), '');
	for (let width = 1; width < 30; width++)
		assert.ok(measure(fit('x'.repeat(10000), width, measure)) <= width);
	const chunks = ['/data/01HX/chunks/000001', '/data/01HY/chunks/000001', '/data/chunks_head/000001'];
	assert.deepEqual(
		chunks.map(path => shortest(path, chunks)),
		['01HX/chunks/000001', '01HY/chunks/000001', 'chunks_head/000001'],
	);
	assert.equal(shortest('/a', ['/a', '/b/a']), '/a');
});

test('numbers are formatted with units', () => {
	const { size, slope, span, title } = load();
	for (const [v, text] of [
		[0, '0'],
		[1023, '1023 B'],
		[1024, '1.00 KiB'],
		[-1.5 * 1048576, '−1.50 MiB'],
		[NaN, '–'],
		[2 ** 40, '1.00 TiB'],
	])
		assert.equal(size(v), text);
	assert.equal(slope({ bytes: true }, 1048576 / 60), '+1.00 MiB/min');
	assert.equal(slope({ bytes: true }, -100), '−0.01 MiB/min');
	assert.equal(slope({ bytes: true }, 0.001), '±0 MiB/min');
	assert.equal(slope({ bytes: true }, NaN), '');
	assert.equal(span(0.0123), '12 ms');
	assert.equal(title('swap_pss'), 'Swap PSS');
});

test('kinds are the same as in the exporter', () => {
	const { kindOf } = load();
	const rust = readFileSync(new URL('../../src/totals/grouping.rs', import.meta.url), 'utf8');
	const cases = [
		...rust
			.slice(rust.indexOf('fn every_kernel_name_has_its_kind()'))
			.matchAll(/^ +\(("[^"]*"), "([a-z]+)"\),$/gm),
	];
	assert.ok(cases.length > 50, `${cases.length} cases`);
	for (const [, path, kind] of cases) if (path !== '""') assert.equal(kindOf(JSON.parse(path)), kind, path);
});
