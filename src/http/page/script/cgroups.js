// Use and limits of containers as bars, and what is to be said about the treemap of charged memory.

Object.assign(LEGEND, {
	unmapped_page_cache: 'Page cache that no process maps: files that were read or written. The kernel drops it when memory is short, once it is written back.',
	unmapped_shmem: 'Tmpfs and shared memory that no process maps: files in /dev/shm or an emptyDir of medium Memory. It goes when the files are removed.',
	anon_unmapped: 'Anonymous memory that no process maps: above all the rest of huge pages of which a part was freed, until the kernel splits them.',
	hugetlb: 'Huge pages of hugetlbfs, where they count as memory. PSS leaves them out.',
	slab: 'Objects of the kernel: inodes, directory entries, sockets.',
	page_tables: 'What the kernel needs to translate addresses.',
	sec_page_tables: 'Page tables of virtual machines (KVM) and IOMMUs.',
	kernel_stacks: 'The kernel’s stack of each thread.',
	percpu: 'Kernel data kept for each CPU.',
	vmalloc: 'Kernel memory from vmalloc, as of BPF maps.',
	zswap: 'Compressed swap.',
	kernel_other: 'Kernel memory of no other kind.',
	sockets: 'Network buffers.',
	difference: 'The rest of the use: charged here and mapped elsewhere, counted nowhere, or page cache and tmpfs that the kernel does not split by mapping.',
});

// ---- The table of containers

// A pod's rows are its containers anyway.
const canList = () => !state.by && place && LEVELS.indexOf(place.level) < 1;
const isListing = () => state.rows && canList();
const used = n => { const a = accountOf(n); return a ? a.current / a.limit : NaN; };
let largestUse = 0;

$['rows-map'].onclick = () => select({ rows: '', sort: '' });
$['rows-containers'].onclick = () => { limit = 200; select({ rows: 'containers', sort: '' }); };

function drawListing() {
	const isOn = !!isListing(), totals = {};
	$.which.hidden = !canList() || !accounts.size;
	$['rows-map'].ariaPressed = !isOn;
	$['rows-containers'].ariaPressed = isOn;
	heads.limit.hidden = !rows.some(accountOf);
	$.parts.hidden = heads.limit.hidden;
	$.list.className = isOn ? 'containers' : '';
	largestUse = 0;
	for (const n of rows) {
		const a = accountOf(n);
		if (!a) continue;
		largestUse = max(largestUse, a.current || 0);
		for (const part in a.parts) totals[part] = (totals[part] || 0) + a.parts[part];
	}
	const list = Object.keys(PARTS).filter(part => totals[part]);
	if ($.parts.list !== String(list)) {
		$.parts.list = String(list);
		$.parts.replaceChildren(...list.map(part => make('li', {}, swatchOf(PARTS[part][1]), PARTS[part][0] + ' ', make('span', { className: 'muted' }))));
	}
	list.forEach((part, k) => put($.parts.children[k].lastChild, size(totals[part])));
}
function makeBar() {
	const bar = make('span', { className: 'use' });
	bar.setAttribute('role', 'img');
	return bar;
}
function fillBar(bar, a, largest) {
	const { isLimited, parts, used } = barOf(a, largest), whole = isLimited ? `${percent(used)} of the limit of ${size(a.limit)}` : 'no limit';
	bar.className = isLimited ? 'use limited' : 'use';
	bar.ariaLabel = `${size(a.current)} in use, ${whole}` + (parts.length > 1 ? ': ' + partsText(parts).join(', ') : '');
	bar.title = [`${size(a.current)} in use, ${whole}`, ...parts.length > 1 ? partsText(parts) : [], ...a.working_set >= 0 ? [`working set ${size(a.working_set)}`] : []].join('\n');
	bar.replaceChildren(...parts.filter(([, , , share]) => share > 0).map(([, , colour, share]) => {
		const part = swatchOf(colour);
		// Between narrow parts a gap would hide them.
		part.className = share > .02 ? 'wide' : '';
		part.style.width = 100 * share + '%';
		return part;
	}));
}
function makeUse() {
	const use = { bar: makeBar(), current: make('strong'), limit: make('span', { className: 'muted' }), percent: make('strong') };
	return Object.assign(use, { all: [use.bar, make('span', { className: 'used' }, use.current, use.limit, use.percent)] });
}
function fillUse(use, a, largest) {
	if (use.a === a && use.largest === largest) return;
	Object.assign(use, { a, largest });
	for (const el of use.all) el.hidden = !a;
	if (!a) return;
	fillBar(use.bar, a, largest);
	put(use.current, size(a.current));
	put(use.limit, a.limit > 0 ? ` of ${size(a.limit)} ` : ', no limit');
	put(use.percent, a.limit > 0 ? percent(a.current / a.limit) : '');
	use.percent.className = a.current >= .9 * a.limit ? 'up' : '';
}

// ---- What is to be said about a place: its use, if it is a container's, and how far the treemap of charged memory is to be believed

// Shared memory that is no file ends with its last process. /dev/zero is inherited only; by name, others may be in other containers, too.
const UNNAMED = /^(\/dev\/zero \(deleted\)|\/memfd:|\/SYSV)/;
function endsText(container, { parts }) {
	const pss = fields.get('pss'), uss = fields.get('uss'), here = [], elsewhere = new Map();
	// As PSS divides pages, what several processes map is more than what is private.
	const isShared = n => at(pss, n) > at(uss, n), isUnnamed = n => n.level === 'path' && n.seen >= tick && UNNAMED.test(n.name);
	if (!(parts.anon >= 0) || !uss || !order.some(n => n.level === 'path')) return '';
	for (const n of series.values()) if (isUnnamed(n)) isBelow(n, container) ? here.push(n) : isShared(n) && elsewhere.set(n.name, at(pss, n) + (elsewhere.get(n.name) || 0));
	const isOurs = n => n.name[1] === 'd' || !isShared(n) || !elsewhere.has(n.name);
	let freed = parts.anon, stays = parts.shmem;
	for (const n of here) {
		stays -= at(pss, n);
		if (isOurs(n)) freed += at(pss, n);
		else {
			stays -= elsewhere.get(n.name);
			elsewhere.set(n.name, 0);
		}
	}
	return `Private to single processes: ${size(at(uss, container))} · Freed if the container ended: ${size(freed)}` + (stays > 0 ? ` · Stays until the pod ends: ${size(stays)} of tmpfs files` : '');
}
const isBelow = (n, top) => { while (n && n !== top) n = n.up; return !!n; };
function drawCharged() {
	const n = place && entered(place), a = n && accountOf(n);
	$.use.hidden = !a;
	fillUse(useHere, a, a?.current);
	put($.ends, a ? endsText(n, a) : '');
	$.charged.hidden = !isCharged || !place;
	if ($.charged.hidden) return;
	put($.charged.firstChild, 'Memory is charged to the container that touched it first, while PSS divides it among all who map it, so what is mapped and what is charged need not match. ');
	put($.charged.lastChild, chargedText());
}
const useHere = makeUse();
$.use.append(...useHere.all);
$.ends.title = 'Freed: anonymous memory, and shared memory (/dev/zero, memfd, System V) that no other container maps. A System V segment that is not marked for removal stays until the pod ends.';
$.charged.append(make('span'), make('strong'));
function chargedText() {
	const top = state.by ? root : place, over = excesses.filter(({ n }) => isBelow(n, top)), by = over.reduce((sum, { by }) => sum + by, 0);
	const name = n => `${n.up.full} › ${n.text}`;
	let unknown = 0;
	const walk = [top];
	while (walk.length) {
		const n = walk.pop();
		if (n.level === 'container') unknown += !n.account?.tiles && live(n);
		else if (LEVELS.indexOf(n.level) < 2) walk.push(...n.kids);
	}
	return [
		over.length === 1 ? `Excess: the tiles of ${name(over[0].n)} are ${size(by)} more than its use of ${size(over[0].n.account.current)}; that is charged elsewhere and in no sum.` : '',
		over.length > 1 ? `Excess: the tiles of ${count(over.length)} containers are ${size(by)} more than their use, most of it in ${name(over.reduce((a, b) => a.by > b.by ? a : b).n)}; that is charged elsewhere and in no sum.` : '',
		unknown ? `${count(unknown)} ${unknown > 1 ? 'containers have no account and are' : 'container has no account and is'} left out.` : '',
	].filter(Boolean).join(' ');
}
// What the tip says of a tile or a container, besides its fields.
function aboutCharged(n) {
	const a = accountOf(n), over = excesses.find(e => e.n === n);
	return [n.level === 'part' ? LEGEND[n.kind] : '', a ? `${size(a.current)} in use, ${a.limit > 0 ? `${percent(a.current / a.limit)} of the limit of ${size(a.limit)}` : 'no limit'}` : '',
		over ? `Excess: the tiles are ${size(over.by)} more than that.` : ''].filter(Boolean).map(text => make('p', {}, text));
}
