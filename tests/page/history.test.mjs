// Tests changes over time, what a reload keeps, and that memory stays bounded.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exposition, load, place } from './load.mjs';

const MIB = 1048576;
const node = (t, pods = 3) =>
	exposition({
		pss: Array.from({ length: pods }, (_, pod) => [
			place('n', `pod-${pod}`, 'app', `comm-${pod}`, '[heap]'),
			100 * MIB + (pod === 1 ? t * MIB : pod === 2 ? t * 1000 : 0),
		]),
		mappings: Array.from({ length: pods }, (_, pod) => [
			place('n', `pod-${pod}`, 'app', `comm-${pod}`, '[heap]'),
			1,
		]),
	});
async function scrape(page, t, text = node(t)) {
	await page.read(text);
	page.commit();
	page.remember(t);
}
const podOf = (page, pod) => page.root.by.get('n').by.get(`pod-${pod}`);

test('slopeOf fits a line by least squares', () => {
	const { slopeOf } = load();
	assert.equal(
		slopeOf([
			[0, 1],
			[1, 3],
			[2, 5],
		]),
		2,
	);
	assert.ok(
		Math.abs(
			slopeOf([
				[0, 0],
				[1, 2],
				[2, 1],
				[3, 3],
			]) - 0.8,
		) < 1e-12,
	);
	assert.ok(
		Number.isNaN(
			slopeOf([
				[0, 1],
				[1, 2],
			]),
		) &&
			Number.isNaN(
				slopeOf([
					[1, 1],
					[1, 2],
					[1, 3],
				]),
			),
	);
});

test('growth is distinguished from noise', async () => {
	const page = load();
	for (let t = 1; t <= 30; t++) await scrape(page, t);
	const pss = page.fields.get('pss');
	assert.equal(page.change(pss, podOf(page, 1)), 29 * MIB);
	assert.ok(page.matters(pss, podOf(page, 1), 29 * MIB) && !page.matters(pss, podOf(page, 2), 29000));
	const best = page.fastest(pss);
	assert.deepEqual([best.n.name, Math.round(best.slope)], ['comm-1', MIB]);
	assert.equal(page.dotsOf(pss, podOf(page, 1)).length, 30);
	const { low, high } = page.rangeOf(page.dotsOf(pss, podOf(page, 1)));
	assert.deepEqual([low, high], [101 * MIB, 130 * MIB]);
	// Only changes after the mark count.
	page.setMarked(page.begin(30));
	await scrape(page, 31);
	assert.equal(page.change(pss, podOf(page, 1)), MIB);
	await scrape(page, 32, node(32, 4));
	assert.ok(page.isNew(pss, podOf(page, 3)) && !page.isNew(pss, podOf(page, 1)));
	assert.equal(page.change(pss, podOf(page, 3)), 100 * MIB);
});

test('a line has at most 120 points, which are spread evenly over its whole time', async () => {
	const page = load();
	for (let t = 1; t <= 5000; t++) await scrape(page, t);
	const times = page.since().points.map(p => p.t);
	assert.ok(times.length >= 50 && times.length < 120, `${times.length} points`);
	assert.equal(times[0], 1);
	assert.equal(times.at(-1), 5000);
	const gaps = times.slice(1, -1).map((t, k) => t - times[k]);
	assert.ok(Math.max(...gaps) <= 3 * Math.min(...gaps), gaps.join());
});

test('a reload keeps the history', async () => {
	const page = load();
	for (let t = 1; t <= 20; t++) await scrape(page, t);
	page.setMarked(page.begin(20));
	const kept = page.pack(['pss', 'mappings']),
		next = load();
	await next.read(node(25, 4));
	next.commit();
	next.unpack(kept, 25);
	next.remember(25);
	const pss = next.fields.get('pss');
	assert.equal(next.spans().length, 2);
	assert.equal(next.change(pss, podOf(next, 1)), 5 * MIB);
	next.setMarked(undefined);
	assert.equal(next.change(pss, podOf(next, 1)), 24 * MIB);
	assert.equal(next.dotsOf(pss, podOf(next, 1)).length, 21);
	assert.ok(next.isNew(pss, podOf(next, 3)) && !next.isNew(pss, podOf(next, 0)));
	// The page ignores a history that is from the future or from another node.
	for (const [text, t] of [
		[kept, 0.5],
		['{"nodes":[0],"spans":[null,null]}', 25],
	]) {
		const other = load();
		await other.read(node(25));
		other.commit();
		other.unpack(text, t);
		other.remember(25);
		assert.equal(other.change(other.fields.get('pss'), podOf(other, 1)), 0);
	}
	assert.throws(() => load().unpack('{', 1));
});

test('the kept history is bounded: paths of a large node are dropped and count from the reload', async () => {
	const page = load(),
		large = t =>
			exposition({
				pss: Array.from({ length: 20000 }, (_, k) => [
					place('n', `pod-${k % 50}`, 'app', 'x', `/path/${k}`),
					t * 4096,
				]),
			});
	for (let t = 1; t <= 5; t++) await scrape(page, t, large(t));
	const kept = page.pack(['pss'], 30000);
	assert.ok(kept.length < 200000, `${kept.length} bytes`);
	const next = load();
	await next.read(large(9));
	next.commit();
	next.unpack(kept, 9);
	next.remember(9);
	const pss = next.fields.get('pss'),
		pod = podOf(next, 7);
	assert.equal(next.change(pss, pod), 400 * 8 * 4096);
	const path = pod.kids[0].kids[0].kids[0];
	assert.ok(!next.isNew(pss, path) && next.change(pss, path) === 0);
});

test('an hour of refreshes does not grow memory', async () => {
	const page = load(),
		churn = t =>
			exposition({
				pss: [1, ...Array.from({ length: 100 }, (_, k) => 100 * t + k)].map(k => [
					place('n', `pod-${k}`, 'app', 'x', '[heap]'),
					4096 * (1 + t),
				]),
			});
	page.getPivot();
	for (let t = 1; t <= 3600; t++) {
		await scrape(page, t, churn(t));
		if (t % 100 === 0) page.getPivot();
	}
	assert.ok(page.nodes().length < 3000, `${page.nodes().length} nodes`);
	assert.ok(page.series.size < 1000 && page.root.by.get('n').kids.length < 1000);
	assert.equal(page.change(page.fields.get('pss'), podOf(page, 1)), 3599 * 4096);
	assert.equal(page.at(page.fields.get('pss'), page.getPivot()), 101 * 4096 * 3601);
});
