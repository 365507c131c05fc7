"use strict";
// The difference of two texts by words: the longest common subsequence, or by lines where texts are too long for that.

const Diff = (() => {
  const CELLS = 4e6;  // of the table of the longest common subsequence

  // [kind, text] with kind "same", "removed" (only in the first text) or "added" (only in the second).
  function parts(first, second) {
    const words = ["\\S+\\s*|\\s+", "[^\\n]*\\n?"].map((one) => new RegExp(one, "g"));
    let a = first.match(words[0]) ?? [], b = second.match(words[0]) ?? [];
    if (a.length * b.length > CELLS) [a, b] = [first.match(words[1]), second.match(words[1])];
    if (a.length * b.length > CELLS) return [["removed", first], ["added", second]];
    const wide = b.length + 1, common = new Uint16Array((a.length + 1) * wide);  // of the ends from i and j
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        common[i * wide + j] = a[i] === b[j] ? common[(i + 1) * wide + j + 1] + 1
          : Math.max(common[(i + 1) * wide + j], common[i * wide + j + 1]);
    const found = [];
    const add = (kind, text) => (found.at(-1)?.[0] === kind ? (found.at(-1)[1] += text) : found.push([kind, text]));
    let i = 0, j = 0;
    while (i < a.length && j < b.length)
      if (a[i] === b[j]) { add("same", a[i++]); j++; }
      else if (common[(i + 1) * wide + j] >= common[i * wide + j + 1]) add("removed", a[i++]);
      else add("added", b[j++]);
    while (i < a.length) add("removed", a[i++]);
    while (j < b.length) add("added", b[j++]);
    return found;
  }

  return { parts };
})();
