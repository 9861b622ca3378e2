/* Sphinx's scores, but a chapter about a word ranks above functions that have it in their names. */
var Scorer = {
  score: ([docname, , , , score]) => (docname.startsWith("book/api/") ? score - 3 : score),
  objNameMatch: 11,
  objPartialMatch: 0,
  objPrio: { 0: 0, 1: 0, 2: 0 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
