// Tests how the page divides the memory of a node into parts and pods, and the treemap of this memory.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exposition, line, load } from './load.mjs';

const APP = { namespace: 'shop', pod: 'web-1', container: 'app' },
	LOG = { ...APP, container: 'log' };
const DB = { namespace: 'data', pod: 'db-0', container: 'db' };
const NODE = {
	free: 3000,
	pods: 1500,
	ended_pods: 200,
	'/system.slice': 400,
	'/user.slice': 50,
	root_cgroup: 10,
	kernel: 90,
	hugetlb_pool: 0,
	zram: 0,
	remainder: 20,
};
const mapped = (where, path, v) => [{ ...where, comm: 'java', path }, v];
const PSS = exposition({
	pss: [mapped(APP, '[heap]', 250), mapped(LOG, '/bin/log', 40), mapped(DB, '[heap]', 500)],
});

function container(where, current, parts) {
	const account = Object.entries(parts).map(([part, v]) =>
		line('cgroup_memory_account_bytes', { ...where, part }, v),
	);
	return [line('cgroup_memory_current_bytes', where, current), ...account, ''].join('\n');
}
function pod({ namespace, pod }, current, limit, outside = {}) {
	const one = (name, value, more) =>
		line(`cgroup_pod_memory_${name}_bytes`, { namespace, pod, ...more }, value);
	const parts = Object.entries(outside).map(([part, v]) => one('outside_containers', v, { part }));
	return [one('current', current), ...(limit ? [one('limit', limit)] : []), ...parts, ''].join('\n');
}
const node = parts =>
	Object.entries(parts)
		.map(([part, v]) => line('cgroup_node_memory_bytes', { part }, v) + '\n')
		.join('');
const CONTAINERS =
	container(APP, 300, { anon: 250, slab: 30, remainder: 20 }) +
	container(LOG, 50, { anon: 10, page_cache: 40 }) +
	container(DB, 600, { anon: 500, page_cache: 70, slab: 30 });
const PODS =
	pod(APP, 800, 1000, { anon: 5, page_cache: 40, shmem: 400, kernel: 5, remainder: 0 }) + pod(DB, 600);

async function opened(...texts) {
	const page = load();
	page.setLayer('node_memory');
	for (const text of texts) {
		assert.equal((await page.read(text)).broken, 0);
		page.commit();
	}
	return page;
}
const find = (page, ...names) => names.reduce((n, name) => n?.by?.get(name), page.root);
const memory = page => page.fields.get('node_memory');
const tilesOf = (page, ...names) =>
	Object.fromEntries(page.kidsOf(find(page, ...names)).map(n => [n.full, page.at(memory(page), n)]));
// Returns the values of the tiles that have no tiles inside. Only these tiles are coloured in the treemap.
function leaves(page, n = page.root) {
	const kids = page.kidsOf(n).filter(k => page.at(memory(page), k) > 0);
	return kids.length ? kids.flatMap(k => leaves(page, k)) : [page.at(memory(page), n)];
}
const sum = list => list.reduce((sum, v) => sum + v, 0);

test('tiles add up to MemTotal, from the node down to paths and what no process maps', async () => {
	const page = await opened(PSS + CONTAINERS + PODS + node(NODE)),
		total = sum(Object.values(NODE));
	assert.deepEqual(tilesOf(page), {
		shop: 800,
		data: 600,
		free: 3000,
		'ended pods': 200,
		'/system.slice': 400,
		'/user.slice': 50,
		'root cgroup': 10,
		'kernel, not charged': 90,
		remainder: 20,
		'other pods': 100,
	});
	assert.deepEqual(tilesOf(page, 'shop', 'web-1'), {
		app: 300,
		log: 50,
		'outside containers: anonymous': 5,
		'outside containers: page cache': 40,
		'outside containers: tmpfs and shared memory': 400,
		'outside containers: kernel': 5,
	});
	assert.deepEqual(tilesOf(page, 'shop', 'web-1', 'app'), {
		java: 250,
		slab: 30,
		'rest of the use': 20,
	});
	assert.equal(page.at(memory(page), page.root), total);
	assert.equal(sum(leaves(page)), total);
	assert.deepEqual(page.excesses(), []);
	// A click on a pod opens the pod if it has more than one part. If the pod consists of one container, the
	// click opens the container.
	assert.equal(page.entered(find(page, 'shop', 'web-1')).name, 'web-1');
	assert.equal(page.entered(find(page, 'data', 'db-0')).name, 'db');
	// The treemap colours each part of the node by its kind.
	assert.deepEqual(
		page
			.kidsOf(page.root)
			.slice(2)
			.map(n => n.kind),
		['free', 'ended_pods', 'cgroup', 'cgroup', 'root_cgroup', 'kernel', 'remainder', 'other_pods'],
	);
	// The treemaps of charged memory and of PSS show only containers.
	page.setLayer('charged_memory');
	assert.deepEqual(
		page.kidsOf(page.root).map(n => n.name),
		['shop', 'data'],
	);
	assert.equal(page.at(page.fields.get('charged_memory'), page.root), 950);
	assert.deepEqual(
		page.kidsOf(find(page, 'shop', 'web-1')).map(n => n.name),
		['app', 'log'],
	);
	page.setLayer('');
	assert.deepEqual(
		page.kidsOf(page.root).map(n => n.name),
		['shop', 'data'],
	);
});

test('a negative remainder is no tile, and the excess over MemTotal is named', async () => {
	const page = await opened(PSS + CONTAINERS + PODS + node({ ...NODE, remainder: -30 })),
		total = sum(Object.values(NODE)) - 50;
	assert.ok(!('remainder' in tilesOf(page)));
	assert.equal(page.at(memory(page), page.root), total);
	assert.equal(sum(leaves(page)), total + 30);
	assert.deepEqual(
		page.excesses().map(a => [a === page.ofNode(), a.over]),
		[[true, 30]],
	);
	assert.deepEqual(
		page.entriesOf(page.ofNode()).filter(([, v]) => v < 0),
		[['remainder', -30, 'remainder']],
	);
});

test('excesses of pods over the part of all pods, and of parts over their pod, are named', async () => {
	const page = await opened(
		PSS +
			CONTAINERS +
			pod(APP, 800, 1000, { shmem: 460, remainder: -10 }) +
			pod(DB, 600) +
			node({ ...NODE, pods: 1390 }),
	);
	assert.deepEqual(
		page
			.excesses()
			.map(a => [a.n.name, a.over])
			.sort(),
		[
			['', 10],
			['web-1', 10],
		],
	);
	assert.ok(!('other pods' in tilesOf(page)));
	assert.equal(page.at(memory(page), page.root), sum(Object.values(NODE)) - 110);
});

test('what no account divides is not invented', async () => {
	// The filter selects only one container of the pod. Another container is in no pod.
	const docker = { namespace: 'moby', pod: '', container: 'x' };
	const text =
		exposition({ pss: [mapped(APP, '[heap]', 250), mapped(docker, '[heap]', 70)] }) +
		container(APP, 300, { anon: 250 }) +
		container(docker, 90, { anon: 70 });
	const page = await opened(text + pod(APP, 800, 1000, { shmem: 400 }) + node(NODE));
	assert.deepEqual(tilesOf(page, 'shop', 'web-1'), {
		app: 300,
		'outside containers: tmpfs and shared memory': 400,
		'rest of the pod': 100,
	});
	assert.equal(page.at(memory(page), find(page, 'moby', '', 'x')), NaN);
	assert.equal(sum(leaves(page)), sum(Object.values(NODE)));
	// With --cgroup-metrics pod,node, the cgroups of containers have no metrics. Then a pod has one tile for
	// its whole use.
	const bare = await opened(PSS + PODS + node(NODE));
	assert.deepEqual(tilesOf(bare, 'data', 'db-0'), { db: NaN, 'rest of the pod': 600 });
	assert.equal(bare.fields.get('charged_memory'), undefined);
});

test('without the families of the node there is no such field, and it ends with them', async () => {
	assert.equal(memory(await opened(PSS + CONTAINERS + PODS)), undefined);
	const page = await opened(PSS + CONTAINERS + PODS + node(NODE), PSS + CONTAINERS);
	assert.equal(page.ofNode(), undefined);
	assert.ok(Number.isNaN(page.at(memory(page), page.root)));
	assert.deepEqual(
		page.kidsOf(page.root).map(n => n.name),
		['shop', 'data'],
	);
	assert.ok(!page.accountOf(find(page, 'shop', 'web-1')));
});

test("the bar of a pod has its containers' parts, and what is outside them", async () => {
	const page = await opened(PSS + CONTAINERS + PODS + node(NODE)),
		a = page.accountOf(find(page, 'shop', 'web-1')),
		bar = page.barOf(a, 1);
	assert.deepEqual([a.current, a.limit, bar.width, bar.used], [800, 1000, 0.8, 0.8]);
	assert.deepEqual(
		bar.parts.map(([name, v, colour]) => [name, v, colour]),
		[
			['anonymous', 260, 'anon'],
			['page cache', 40, 'file'],
			['slab', 30, 'slab'],
			['outside containers', 450, 'outside'],
			['remainder', 20, 'difference'],
		],
	);
	// The exporter reads a container a moment after the container's pod. In this moment, the use of the
	// container may become larger than the use that was read for the pod.
	const skewed = await opened(PSS + CONTAINERS + pod(APP, 340, 1000, { remainder: -10 }) + node(NODE));
	assert.equal(sum(Object.values(skewed.accountOf(find(skewed, 'shop', 'web-1')).parts)), 340);
});

test('the bar of the node has all parts in order, and cgroups by size', async () => {
	const page = await opened(
			PSS + CONTAINERS + PODS + node({ '/user.slice': 50, ...NODE, '/new_<part>\u202e': 5 }),
		),
		entries = page.entriesOf(page.ofNode());
	assert.deepEqual(
		entries.map(([name]) => name),
		[
			'pods',
			'ended pods',
			'/system.slice',
			'/user.slice',
			'/new_<part>⟨U+202E⟩',
			'root cgroup',
			'kernel, not charged',
			'huge page pool',
			'zram',
			'remainder',
			'free',
		],
	);
	assert.equal(sum(entries.map(([, v]) => v)), page.ofNode().current);
});

test('by path a part of the node is one place, and one of pods has these', async () => {
	const page = await opened(PSS + CONTAINERS + PODS + node(NODE)),
		pivot = page.getPivot(),
		name = 'cgroup_memory_outside_shmem';
	assert.deepEqual(page.kidsOf(pivot.by.get('cgroup_memory_node_free')), []);
	assert.equal(page.at(memory(page), pivot.by.get('cgroup_memory_node_free')), 3000);
	assert.deepEqual(
		page.insideOf(pivot.by.get(name)).map(n => [n.full, page.at(memory(page), n)]),
		[['shop/web-1', 400]],
	);
	assert.equal(page.at(memory(page), pivot), sum(Object.values(NODE)));
	assert.deepEqual(
		page
			.search(page.root, 'outside containers: tmpfs')
			.map(row => [row.full, page.at(memory(page), row)]),
		[['outside containers: tmpfs and shared memory', 400]],
	);
});

test('the bar of an OOM record is that of the pod, if its limit was hit', () => {
	const { readOoms, accountOfKill } = load();
	const hit = { limit: 'pod', hit_limit_bytes: 200, hit_use_bytes: 199, outside_containers_bytes: 85 };
	const record = { ...hit, pod: 'web-1', container: 'app', use_bytes: 60, limit_bytes: 150 };
	record.account = { anon: 60 };
	const of = more => accountOfKill(readOoms(JSON.stringify({ records: [{ ...record, ...more }] }))[0]);
	assert.deepEqual(of({}), { current: 199, limit: 200, parts: { anon: 60, rest: 54, outside: 85 } });
	assert.deepEqual(of({ container: '' }), { current: 199, limit: 200, parts: { rest: 114, outside: 85 } });
	const others = [{ limit: 'container' }, { outside_containers_bytes: null }, { hit_use_bytes: null }];
	for (const more of others) {
		const ofContainer = { current: 60, limit: 150, parts: { anon: 60 } };
		assert.deepEqual(of(more), ofContainer, JSON.stringify(more));
	}
});

test('pods below another cgroup than the usual one are not counted twice', async () => {
	const { pods, ended_pods, ...rest } = NODE;
	const parts = { ...rest, '/kubelet': pods + ended_pods };
	const page = await opened(PSS + CONTAINERS + PODS + node(parts));
	assert.equal(sum(leaves(page)), sum(Object.values(NODE)));
});
