// Draws the bars of use and limit, and the notes below the treemap of charged memory.

Object.assign(LEGEND, {
	unmapped_page_cache: 'Page cache that no process maps: files that were read or written. The kernel drops '
		+ 'it when memory is short, once it is written back.',
	unmapped_shmem: 'Tmpfs and shared memory that no process maps: files in /dev/shm or an emptyDir of medium '
		+ 'Memory. It goes when the files are removed.',
	anon_unmapped: 'Anonymous memory that no process maps: mostly the rest of partly freed huge pages, '
		+ 'until the kernel splits them.',
	hugetlb: 'Huge pages of hugetlbfs, where they count as memory. PSS does not include them.',
	slab: 'Objects of the kernel: inodes, directory entries, sockets.',
	page_tables: 'Tables that translate addresses.',
	sec_page_tables: 'Page tables of virtual machines (KVM) and IOMMUs.',
	kernel_stacks: 'The kernel’s stack of each thread.',
	percpu: 'Kernel data kept for each CPU.',
	vmalloc: 'Kernel memory from vmalloc, as of BPF maps.',
	zswap: 'Compressed swap.',
	kernel_other: 'Other kernel memory.',
	sockets: 'Network buffers.',
	rest: 'Containers of the pod that are not shown: no filter selects them, or they have no account.',
	outside: 'Charged to the pod and to none of its running containers: tmpfs and page '
		+ 'cache of ended ones, the sandbox. '
		+ 'It counts towards the pod’s limit.',
	other_pods: 'Pods that are not shown: no filter selects them, or none of their containers runs.',
	ended_pods: 'Charged to the cgroups above the pods and to no pod: what ended pods left, '
		+ 'mostly tmpfs and page cache.',
	cgroup: 'Cgroups beside those of the pods: services in /system.slice, logins in /user.slice.',
	root_cgroup: 'Processes and page cache in the root cgroup itself.',
	kernel: 'Kernel memory that is charged to no cgroup.',
	hugetlb_pool: 'Huge pages of hugetlbfs, in use or not, that are charged to no cgroup.',
	zram: 'Swap that zram keeps compressed in memory.',
	balloon: 'Taken back by the hypervisor.',
	remainder: 'MemTotal less all other parts. If large, it is memory that no counter shows: '
		+ 'buffers of drivers, ring buffers.',
	free: 'Free pages, with those that each CPU keeps for itself.',
	difference: 'Charged here and mapped elsewhere, counted nowhere, or page cache and tmpfs that the '
		+ 'kernel does not split by mapping.',
});

// ---- The table of containers

// Returns whether the button for the list of containers is shown. It is shown for the node and for a
// namespace. In a pod, the rows are containers even without the list.
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
	$.list.className = heads.limit.hidden ? '' : 'limits';
	largestUse = 0;
	for (const n of rows) {
		const a = accountOf(n);
		if (!a) continue;
		largestUse = max(largestUse, a.current || 0);
		for (const part in a.parts) totals[part] = (totals[part] || 0) + a.parts[part];
	}
	fillList($.parts, entriesOf({ parts: totals }).filter(([, v]) => v));
}
function fillList(el, entries) {
	const names = String(entries.map(([name]) => name));
	if (el.names !== names) {
		el.names = names;
		el.replaceChildren(...entries.map(([name, , colour]) => make('li', {}, swatchOf(colour), name + ' ',
			make('span', { className: 'muted' }))));
	}
	entries.forEach(([, v], k) => put(el.children[k].lastChild, size(v)));
}
// Draws the parts of the node's memory as a bar and a list. The list omits parts below 0.1%. The bar's text
// names all parts.
function drawNode() {
	$.node.hidden = !ofNode;
	if (!ofNode) return;
	const { current } = ofNode;
	fillBar($['node-bar'], ofNode, current);
	$['node-memory'].href = hashOf({ at: [], by: '', q: '', field: NODE });
	put($['node-memory'], `Node memory ${size(current)}`);
	fillList($['node-parts'], entriesOf(ofNode).filter(([, v]) => v < 0 || v > current / 1000));
}
function makeBar() {
	const bar = make('span', { className: 'use' });
	bar.setAttribute('role', 'img');
	return bar;
}
function fillBar(bar, a, largest) {
	const { isLimited, parts } = barOf(a, largest), text = a === ofNode ? `MemTotal ${size(a.current)}`
		: useText(a);
	bar.className = isLimited ? 'use limited' : 'use';
	bar.ariaLabel = text + (parts.length > 1 ? ': ' + partsText(parts).join(', ') : '');
	bar.title = [text, ...parts.length > 1 ? partsText(parts) : [], ...a.working_set >= 0
		? [`working set ${size(a.working_set)}`] : []].join('\n');
	bar.replaceChildren(...parts.filter(([, , , share]) => share > 0).map(([, , colour, share]) => {
		const part = swatchOf(colour);
		// Only a wide part has gaps at its sides. With gaps, a narrow part would vanish.
		part.className = share > .02 ? 'wide' : '';
		part.style.width = 100 * share + '%';
		return part;
	}));
}
const useText = a => `${size(a.current)} in use, `
	+ `${a.limit > 0 ? `${percent(a.current / a.limit)} of the limit of ${size(a.limit)}` : 'no limit'}`;
function makeUse() {
	const use = { bar: makeBar(), current: make('strong'), limit: make('span', { className: 'muted' }),
		percent: make('strong') };
	return Object.assign(use, { all: [use.bar, make('span', { className: 'used' }, use.current, use.limit,
		use.percent)] });
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

// ---- Notes below the treemap: on a container's memory use, and on tiles that add up to more than this use

// Matches the paths of shared memory without a file name: /dev/zero, memfds and System V segments. The kernel
// frees this memory when the last process that maps it ends (a System V segment only if it is marked for
// removal). Processes of other containers can also map memfds and System V segments. They cannot map
// /dev/zero, because only child processes inherit such a mapping.
const UNNAMED = /^(\/dev\/zero \(deleted\)|\/memfd:|\/SYSV)/;
function endsText(container, { parts }) {
	const pss = fields.get('pss'), uss = fields.get('uss'), here = [], elsewhere = new Map();
	// PSS divides a shared page among the processes that map it. So a path that several processes map has
	// more PSS than private bytes.
	const isShared = n => at(pss, n) > at(uss, n), isUnnamed = n => n.level === 'path' && n.seen >= tick
		&& UNNAMED.test(n.name);
	if (!(parts.anon >= 0) || !uss || !order.some(n => n.level === 'path')) return '';
	for (const n of series.values()) if (isUnnamed(n)) isBelow(n, container) ? here.push(n) : isShared(n)
		&& elsewhere.set(n.name, at(pss, n) + (elsewhere.get(n.name) || 0));
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
	return `Private to single processes: ${size(at(uss, container))} · Freed if the container ended: `
		+ `${size(freed)}` + (stays > 0 ? ` · Stays until the pod ends: ${size(stays)} of tmpfs files` : '');
}
const isBelow = (n, top) => { while (n && n !== top) n = n.up; return !!n; };
function drawCharged() {
	const n = place && entered(place), inner = n && accountOf(n), a = place && accountOf(place) || inner;
	$.use.hidden = !a;
	fillUse(useHere, a, a?.current);
	put($.ends, inner?.names.length > 2 ? endsText(n, inner) : '');
	$.charged.hidden = !layer || !place;
	if ($.charged.hidden) return;
	put($.charged.firstChild, 'Memory is charged to the container that touched it first, while PSS divides it '
		+ 'among all processes that map it, so the two may differ. ');
	put($.charged.lastChild, chargedText());
}
const useHere = makeUse();
$.use.append(...useHere.all);
$.ends.title = 'Freed: anonymous memory, and shared memory (/dev/zero, memfd, System V) that no other '
	+ 'container maps. A System V segment that is not marked for removal stays until the pod ends.';
$.charged.append(make('span'), make('strong'));
function chargedText() {
	const top = state.by ? root : place, [isNode, isAll] = [layer === NODE, top === root];
	const over = excesses().filter(a => a !== ofNode && isBelow(a.n, top)),
		most = over.reduce((a, b) => a?.over > b.over ? a : b, null);
	const name = ({ n }) => n.level === 'pod' ? n.full : `${n.up.full} › ${n.text}`;
	let unknown = 0;
	const walk = [top];
	while (walk.length) {
		const n = walk.pop();
		if (n.level === 'container') unknown += live(n) && !(at(field, n) >= 0);
		else if (LEVELS.indexOf(n.level) < 2) walk.push(...n.kids);
	}
	const isMany = unknown > 1, by = size(sumOfAll(over.map(a => a.over))),
		remainder = ofNode?.more.get('remainder');
	const end = 'that is charged elsewhere and in no sum.', where = isNode ? 'places' : 'containers';
	return [
		isNode && isAll && ofNode.over ? `The parts are ${size(ofNode.over)} more than MemTotal, because `
			+ `they are read one after another`
			+ (remainder < 0 ? `: the remainder is ${size(remainder)}, and no tile.` : '.') : '',
		over.length === 1 ? `Excess: the tiles of ${name(most)} are ${by} more than its use of `
			+ `${size(most.current)}; ${end}` : '',
		over.length > 1 ? `Excess: the tiles of ${count(over.length)} ${where} are ${by} more than their use, `
			+ `most of it in ${name(most)}; ${end}` : '',
		!unknown ? '' : isNode ? `${count(unknown)} ${isMany ? 'containers are' : 'container is'} in no pod's `
			+ `cgroup: other parts include them.`
			: `${count(unknown)} `
				+ `${isMany ? 'containers have no account and are' : 'container has no account and is'} left out.`,
	].filter(Boolean).join(' ');
}
// Returns what the tooltip says about memory that is charged to cgroups. It explains what a tile stands for,
// or shows the memory use of a container or pod. It also warns if the tiles inside add up to more than this
// use.
function aboutCharged(n) {
	const a = accountOf(n);
	return [n.level === 'part' ? LEGEND[n.kind] : '', a ? useText(a) : '', excesses().includes(a)
		? `Excess: the tiles are ${size(a.over)} more than that.` : '']
		.filter(Boolean).map(text => make('p', {}, text));
}
