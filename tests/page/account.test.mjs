// Tests how the page shows the memory of cgroups: the parser of these metrics, the treemap of charged memory,
// the bars of containers, and the records of OOM kills.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exposition, line, load, place, randomFrom } from './load.mjs';

const WHERE = { namespace: 'shop', pod: 'web-1', container: 'app' };
const PARTS = {
	anon: 500, anon_unmapped: 17, page_cache: 300, shmem: 40, hugetlb: 16, slab: 30, page_tables: 20,
	sec_page_tables: 6, kernel_stacks: 10, percpu: 5, vmalloc: 3, zswap: 2, kernel_other: 15, sockets: 0,
	remainder: 36,
};
function cgroup(where, { current, limit, working_set, parts = {}, unmapped = {} }) {
	const one = (name, value, more) => value === undefined ? [] : [line(`cgroup_memory_${name}_bytes`,
		{ ...where, ...more }, value)];
	return [...one('current', current), ...one('limit', limit), ...one('working_set', working_set),
		...Object.entries(parts).flatMap(([part, v]) => one('account', v, { part })),
		...Object.entries(unmapped).flatMap(([part, v]) => one('unmapped', v, { part }))].join('\n') + '\n';
}
const mapped = (where, paths) => Object.entries(paths)
	.map(([path, v]) => [{ ...where, comm: 'java', path }, v]);
async function readInto(page, text) {
	const answer = await page.read(text);
	page.commit();
	return answer;
}
async function opened(text) {
	const page = load();
	page.setLayer('charged_memory');
	page.answer = await readInto(page, text);
	return page;
}
const find = (page, ...names) => names.reduce((n, name) => n?.by?.get(name), page.root);
const charged = page => page.fields.get('charged_memory');
const tilesOf = (page, ...names) => Object.fromEntries(page.kidsOf(find(page, ...names))
	.map(n => [n.full, page.at(charged(page), n)]));

test('tiles of paths and parts add up to the charged memory', async () => {
	const page = await opened(exposition({ pss: mapped(WHERE, { '[heap]': 450, '/lib/libc.so': 100 }) },
		cgroup(WHERE, { current: 1000, limit: 2000, working_set: 900, parts: PARTS,
			unmapped: { page_cache: 210, shmem: 40 } })));
	assert.deepEqual(tilesOf(page, 'shop', 'web-1', 'app'), { java: 550, 'unmapped page cache': 210,
		'unmapped tmpfs': 40, slab: 30, 'page tables': 20,
		'unmapped anonymous': 17, hugetlbfs: 16, 'secondary page tables': 6, 'kernel stacks': 10, 'per-CPU': 5,
		vmalloc: 3, zswap: 2, 'other kernel memory': 15,
		'rest of the use': 76 });
	for (const names of [['shop', 'web-1', 'app'], ['shop', 'web-1'], ['shop'], []])
		assert.equal(page.at(charged(page), find(page, ...names)), 1000);
	assert.equal(page.answer.broken, 0);
	assert.deepEqual(page.excesses(), []);
	const a = page.accountOf(find(page, 'shop', 'web-1', 'app'));
	assert.deepEqual([a.current, a.limit, a.working_set, a.parts, a.unmapped], [1000, 2000, 900, PARTS,
		{ unmapped_page_cache: 210, unmapped_shmem: 40 }]);
});

test('an unknown split has no tiles', async () => {
	const page = await opened(exposition({ pss: mapped(WHERE, { '[heap]': 450 }) },
		cgroup(WHERE, { current: 1000, parts: { anon: 500, page_cache: 400, slab: 30, remainder: 70 } })));
	assert.deepEqual(tilesOf(page, 'shop', 'web-1', 'app'), { java: 450, slab: 30, 'rest of the use': 520 });
});

test('an excess of tiles is reported but not added, and no tile is negative', async () => {
	const page = await opened(exposition({ pss: mapped(WHERE, { '[heap]': 990 }) },
		cgroup(WHERE, { current: 1000, parts: { ...PARTS, percpu: -5, remainder: -80 },
		unmapped: { page_cache: 210 } })));
	const tiles = tilesOf(page, 'shop', 'web-1', 'app'), sum = Object.values(tiles).reduce((a, b) => a + b);
	assert.ok(Object.values(tiles).every(v => v > 0) && !('rest of the use' in tiles) && !('per-CPU' in tiles));
	assert.deepEqual(page.excesses().map(({ n, over }) => [n.name, over]), [['app', sum - 1000]]);
	assert.equal(page.at(charged(page), page.root), 1000);
});

test('containers without an account are left out, those without a process are shown', async () => {
	const other = { ...WHERE, pod: 'web-2' }, gone = { ...WHERE, pod: 'web-3' };
	const pss = [...mapped(WHERE, { '[heap]': 100 }), ...mapped(other, { '[heap]': 70 })];
	const page = await opened(exposition({ pss }, cgroup(WHERE, { current: 200, parts: { slab: 10 } })
		+ cgroup(gone, { current: 50, parts: { slab: 20 } })));
	assert.deepEqual([WHERE, other, gone].map(({ pod }) => page.at(charged(page), find(page, 'shop', pod))),
		[200, NaN, 50]);
	assert.deepEqual(tilesOf(page, 'shop', 'web-2', 'app'), { java: NaN });
	assert.equal(page.at(charged(page), page.root), 250);
	assert.deepEqual(page.containersOf(page.root).map(n => n.full).sort(), ['shop/web-1 › app',
		'shop/web-2 › app', 'shop/web-3 › app']);
	// Now the page shows PSS instead of charged memory. PSS comes from smaps, so there are no tiles such as
	// slab. The pod web-3 is not shown, because it has no process.
	page.setLayer('');
	assert.deepEqual(page.insideOf(page.root).map(n => n.full), ['shop/web-1', 'shop/web-2']);
	assert.deepEqual(page.kidsOf(find(page, 'shop', 'web-1', 'app')).map(n => n.name), ['java']);
	assert.equal(page.at(page.fields.get('pss'), page.root), 170);
});

test('without accounts there is no such field, and ended accounts are forgotten', async () => {
	const pss = exposition({ pss: mapped(WHERE, { '[heap]': 100 }) }), page = await opened(pss);
	assert.equal(charged(page), undefined);
	await readInto(page, pss + cgroup(WHERE, { current: 200, limit: 300 }));
	assert.equal(charged(page), undefined);
	assert.equal(page.accountOf(find(page, 'shop', 'web-1', 'app')).limit, 300);
	await readInto(page, pss + cgroup(WHERE, { current: 200, parts: { slab: 10 } }));
	assert.equal(page.at(charged(page), page.root), 200);
	await readInto(page, pss);
	assert.ok(Number.isNaN(page.at(charged(page), page.root)));
	assert.ok(!page.accountOf(find(page, 'shop', 'web-1', 'app')));
	assert.deepEqual(page.kidsOf(find(page, 'shop', 'web-1', 'app')).map(n => n.name), ['java']);
	// The page drops containers that have ended.
	for (let k = 0; k < 3000; k++) {
		const where = { ...WHERE, pod: `job-${k}` };
		await readInto(page, exposition({ pss: mapped(where, { '[heap]': 100 }) },
			cgroup(where, { current: 200, parts: { slab: 10 } })));
	}
	assert.ok(page.nodes().length < 2200, `${page.nodes().length} nodes`);
	assert.equal(page.at(charged(page), page.root), 200);
});

test('by path, a part is one place with its containers, and a search sums it', async () => {
	const wheres = [1, 2, 3].map(k => ({ ...WHERE, pod: `web-${k}` }));
	const text = k => exposition({ pss: wheres.flatMap(where => mapped(where, { '[heap]': 100 })) },
		wheres.map(where => cgroup(where, { current: 200 + k, parts: { slab: 10 + k } })).join(''));
	const page = await opened(text(0)), pivot = page.getPivot(),
		slab = () => pivot.by.get('cgroup_memory_slab');
	assert.equal(page.at(charged(page), slab()), 30);
	assert.deepEqual(page.insideOf(slab()).map(n => n.full), ['shop/web-1', 'shop/web-2', 'shop/web-3']);
	await readInto(page, text(5));
	assert.equal(page.at(charged(page), slab()), 45);
	assert.equal(page.at(charged(page), pivot), 615);
	const [row] = page.search(page.root, 'slab');
	assert.deepEqual([row.full, row.note, page.at(charged(page), row)], ['slab', 'in 3 pods', 45]);
	assert.equal(page.targetOf(row), slab());
	page.setLayer('');
	assert.deepEqual(page.kidsOf(pivot).map(n => n.name), ['[heap]']);
	assert.deepEqual(page.search(page.root, 'slab'), []);
});

test('accounts of hostile names are kept apart, and invalid lines are counted', async () => {
	const random = randomFrom(4), alphabet = ['a', ',', '=', '"', '\\', '}', '{', ' ', '\n', '\u2028', '/',
		'__proto__', '",part="', '\ufffd', '\u202e'];
	const name = () => Array.from({ length: 1 + random() * 4 },
		() => alphabet[Math.floor(random() * alphabet.length)]).join(''), all = new Map();
	for (let k = 0; k < 500; k++) {
		const where = { namespace: name(), pod: name(), container: name() };
		all.set(JSON.stringify(where), [where, 1000 + k]);
	}
	const list = [...all.values()];
	const page = await opened(exposition({ pss: list.flatMap(([where]) => mapped(where, { '[heap]': 100 })) },
		list.map(([where, current]) => cgroup(where, { current, parts: { slab: 10 } })).join('')));
	for (const [where, current] of list) assert.equal(page.at(charged(page),
		find(page, ...Object.values(where))), current);
	const good = cgroup(WHERE, { current: 5, limit: Infinity, parts: { unheard_of: 1, constructor: 2,
		slab: 3 } });
	const { broken } = await readInto(page, good + 'cgroup_memory_current_bytes{namespace="x} 1\n'
		+ 'cgroup_memory_account_bytes{part=} 1\ncgroup_memory_peak_bytes{x 1\ncgroup_memory_current_bytes 5\n');
	assert.equal(broken, 2);
	assert.deepEqual([...page.accounts().values()].map(a => [a.current, a.limit, a.parts]),
		[[5, NaN, { slab: 3 }]]);
});

test('the width of a bar is the limit or, without one, the largest use', () => {
	const { barOf } = load(), sum = bar => bar.parts.reduce((sum, [, , , share]) => sum + share, 0),
		near = (a, b) => assert.ok(Math.abs(a - b) < 1e-9, `${a} ${b}`);
	const a = { current: 1000, limit: 2000, parts: PARTS }, bar = barOf(a, 5000);
	assert.deepEqual([bar.isLimited, bar.width, bar.used, bar.parts.length], [true, .5, .5, 15]);
	near(sum(bar), .5);
	near(bar.parts[0][3], .25);
	assert.deepEqual([barOf({ ...a, limit: NaN }, 5000).isLimited, barOf({ ...a, limit: NaN }, 5000).width],
		[false, .2]);
	// After the limit was lowered, the use may exceed it. The bar is then full, and the percentage is above
	// 100.
	assert.deepEqual([barOf({ ...a, current: 3000 }, 1).width, barOf({ ...a, current: 3000 }, 1).used],
		[1, 1.5]);
	// A negative remainder has no width. The other parts are scaled down, so that together they are as wide as
	// the memory use.
	near(sum(barOf({ ...a, parts: { anon: 1100, remainder: -100 } }, 1)), .5);
	assert.deepEqual(barOf({ ...a, parts: {} }, 1).parts, [['in use', 1000, 'all', .5]]);
	for (const odd of [{ current: 0, limit: NaN, parts: {} }, { current: NaN, limit: NaN, parts: {} }])
		assert.equal(sum(barOf(odd, 0)), 0);
});

test('invalid records of OOM kills are read without an exception', () => {
	const { readOoms } = load();
	const one = { time: 10.5, namespace: 'shop', pod: 'web-1', container: 'app', command: '<b>', limit: 'pod',
		kills: 1, limit_bytes: null, use_bytes: 5, reading_age_seconds: .8, mapped_bytes: 4,
		growth_seconds: 9, paths: [{ command: 'java', path: '[heap]', pss_bytes: 3, growth_bytes: 2 }],
		victims: [{ pid: 7, command: 'x' }], processes: [{ pid: 7, command: 'x', rss_anon_bytes: 1,
			rss_file_bytes: 2, rss_shmem_bytes: 3 }], account: { anon: 4, slab: 'x', unheard_of: 1 } };
	const [r] = readOoms(JSON.stringify({ records: [one] }));
	const { account, ...rest } = one;
	const unknown = { outside_containers_bytes: NaN, limit_bytes: NaN, hit_limit_bytes: NaN, hit_use_bytes: NaN,
		peak_bytes: NaN };
	const known = { victims: [{ pid: 7, command: 'x' }], processes: [{ pid: 7, command: 'x', rss_bytes: 6 }],
		candidates: [], hasUnselected: false };
	assert.deepEqual(r, { ...rest, ...unknown, ...known, parts: { anon: account.anon } });
	const [ofPod] = readOoms(JSON.stringify({ records: [{ ...one, container: '', candidates: ['a', 5, 'b'],
		has_unselected: true }] }));
	assert.deepEqual([ofPod.candidates, ofPod.hasUnselected], [['a', 'b'], true]);
	const many = readOoms(JSON.stringify({ records: Array.from({ length: 80 },
		(_, k) => ({ ...one, time: 100 - k, paths: Array(50).fill(one.paths[0]) })) }));
	assert.deepEqual([many.length, many[0].time, many[63].time, many[0].paths.length], [64, 100, 37, 10]);
	for (const odd of ['{}', '[]', 'null', '5', '{"records":5}', '{"records":[null,1,"x",[]]}',
			'{"records":[{"time":"x","paths":5,"account":[],"pod":{}}]}',
			'{"records":[{"time":1e999,"paths":[null,{}]}]}']) {
		for (const record of readOoms(odd)) assert.ok(typeof record.pod === 'string'
			&& typeof record.time === 'number' && Array.isArray(record.paths), odd);
	}
	assert.throws(() => readOoms('<html>'), SyntaxError);
});
