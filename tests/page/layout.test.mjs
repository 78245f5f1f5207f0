// Tests the layout of the treemap: the areas and the order of the tiles, and that they do not overlap.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exposition, load, place, randomFrom } from './load.mjs';

const sizes = (random, n) =>
	Array.from({ length: n }, () => ({ v: Math.ceil(2 ** (random() * 20)), kids: [] }));

test('areas are proportional within a pixel, and tiles neither overlap nor exceed the map', () => {
	const { squarify } = load(),
		random = randomFrom(3);
	for (let round = 0; round < 200; round++) {
		const [width, height] = [50 + Math.floor(random() * 1500), 30 + Math.floor(random() * 900)],
			list = sizes(random, 1 + Math.floor(random() * 120));
		squarify(list, 0, 0, width, height, 'pss');
		const total = list.reduce((sum, n) => sum + n.v, 0),
			unit = (width * height) / total,
			taken = new Uint8Array(width * height);
		for (const n of list) {
			// Rounding moves each of the four edges by at most half a pixel. So it changes the width and the
			// height by at most 1, and the area by at most w + h + 1.
			assert.ok(Math.abs(n.w * n.h - n.v * unit) <= n.w + n.h + 1, JSON.stringify(n));
			assert.ok(n.x >= 0 && n.y >= 0 && n.x + n.w <= width && n.y + n.h <= height, JSON.stringify(n));
			for (let y = n.y; y < n.y + n.h; y++) {
				for (let x = n.x; x < n.x + n.w; x++)
					assert.equal(taken[y * width + x]++, 0, 'two tiles overlap');
			}
		}
		assert.equal(taken.filter(t => !t).length, 0, 'the tiles do not fill the map');
	}
});

test('small changes of sizes keep the order', () => {
	const { squarify } = load(),
		random = randomFrom(4),
		list = sizes(random, 80),
		order = () => list.map(n => n.age).join();
	squarify(list, 0, 0, 1000, 500, 'pss');
	const before = order(),
		base = new Map(list.map(n => [n, n.v]));
	for (let round = 0; round < 100; round++) {
		for (const n of list) n.v = base.get(n) * (0.95 + random() * 0.1);
		squarify(list, 0, 0, 1000, 500, 'pss');
		assert.equal(order(), before);
	}
	list[40].v *= 1000;
	squarify(list, 0, 0, 1000, 500, 'pss');
	assert.notEqual(order(), before);
	// When the treemap changes from PSS to RSS, squarify() sorts all tiles by size.
	squarify(list, 0, 0, 1000, 500, 'rss');
	assert.ok(list.every((n, k) => !k || n.order <= list[k - 1].order));
});

test('a place is laid out in nested boxes', async () => {
	const page = load(),
		random = randomFrom(5),
		list = [];
	for (let pod = 0; pod < 12; pod++) {
		for (let k = 0; k < 20; k++)
			list.push([
				place(`ns-${pod % 3}`, `pod-${pod}`, 'app', pod % 2 ? 'app' : 'java', `/lib/${k}`),
				Math.ceil(random() * 1e8),
			]);
	}
	await page.read(exposition({ pss: list }));
	page.commit();
	for (const top of [page.root, page.getPivot()]) {
		page.weigh(top, page.fields.get('pss'));
		const { groups, tiles } = page.layOut(top, 1200, 600, 'pss', 1),
			isIn = (a, b) => a.x >= b.x && a.y >= b.y && a.x + a.w <= b.x + b.w && a.y + a.h <= b.y + b.h;
		for (const n of [...groups.map(g => g.n), ...tiles]) {
			if (n.up !== top) assert.ok(isIn(n, n.up), `${n.full} is in ${n.up.full}`);
		}
		for (const a of tiles)
			for (const b of tiles) {
				assert.ok(
					a === b || a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y,
					`${a.full} beside ${b.full}`,
				);
			}
		const area = n => n.w * n.h,
			total = groups.filter(g => g.depth === 0).map(g => g.n);
		for (const n of total)
			assert.ok(
				Math.abs(area(n) / (1200 * 600) - n.v / top.v) < 0.01,
				'a top-level box has the wrong area',
			);
		// At each point, hitIn() finds the tile that is drawn there.
		for (const n of tiles.filter(n => n.w > 3 && n.h > 3))
			assert.equal(page.hitIn(top, n.x + 1, n.y + 1, 1).n, n);
	}
	page.weigh(page.root, page.fields.get('pss'));
	const { groups } = page.layOut(page.root, 1200, 600, 'pss', 2);
	const named = groups.filter(g => g.names && g.n.level === 'pod').map(g => g.names.join(' › '));
	assert.ok(named.includes('pod-0 › app › java') && named.includes('pod-1 › app'), named.join('; '));
	// A click inside the box of a pod enters the pod. A click at another point of the namespace's box enters
	// the namespace.
	const box = groups.find(g => g.n.level === 'namespace').n,
		inner = groups.find(g => g.n.up === box).n;
	assert.equal(page.hitIn(page.root, box.x + 20, box.y + 3, 2).enter, box);
	assert.equal(page.hitIn(page.root, inner.x + 20, inner.y + 30, 2).enter, inner);
});
