// Bundles GraphiQL from its npm package, so that the page works without a network.
//
//     node tools/graphiql/build.mjs OUT
//
// Installs what package-lock.json pins (npm checks the hashes, no package's scripts run) beside this file, and writes
// graphiql.js, graphiql.css and the editor's three workers to the folder OUT. Does nothing when OUT is already
// newer than its inputs.

import { execFileSync } from "node:child_process";
import { mkdirSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] && resolve(process.argv[2]);
if (!out) {
  console.error("Say where the bundle goes: node tools/graphiql/build.mjs OUT");
  process.exit(2);
}

const changed = (name) => statSync(join(here, name)).mtimeMs;
const newestInput = Math.max(...["build.mjs", "page.js", "package-lock.json"].map(changed));
if (statSync(join(out, "graphiql.js"), { throwIfNoEntry: false })?.mtimeMs > newestInput) {
  process.exit(0);
}

execFileSync("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], { cwd: here, stdio: ["ignore", 2, 2] });
const { build } = await import("esbuild");

// The bundle is written beside its place and moved there whole: an interrupted build leaves no half page.
const draft = `${out}.new`;
rmSync(draft, { recursive: true, force: true });
mkdirSync(draft, { recursive: true });
await build({
  absWorkingDir: here,
  entryPoints: {
    graphiql: "page.js",
    "editor.worker": "monaco-editor/esm/vs/editor/editor.worker.js",
    "json.worker": "monaco-editor/esm/vs/language/json/json.worker.js",
    "graphql.worker": "monaco-graphql/esm/graphql.worker.js",
  },
  outdir: draft,
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  define: { "process.env.NODE_ENV": '"production"' },
  loader: { ".ttf": "dataurl", ".woff2": "dataurl" },
  legalComments: "linked",
  logLevel: "warning",
});
rmSync(out, { recursive: true, force: true });
renameSync(draft, out);
