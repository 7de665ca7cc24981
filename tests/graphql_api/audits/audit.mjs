// Runs the server audits of the graphql-http suite and prints them as JSON.
//
//     node audit.mjs URL
//
// Prints [{id, name, status, reason}], where status is "ok", "notice", "warn" or "error".

import { auditServer } from "graphql-http";

const url = process.argv[2];
if (!url) {
  console.error("Say which server: node audit.mjs http://127.0.0.1:8000/graphql");
  process.exit(2);
}

const results = await auditServer({ url });
console.log(JSON.stringify(results.map(({ id, name, status, reason }) => ({ id, name, status, reason }))));
