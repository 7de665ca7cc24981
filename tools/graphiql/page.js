// The GraphiQL page: the editor on this server's /graphql, with the example queries that the page carries.

import "graphiql/style.css";
import { createGraphiQLFetcher } from "@graphiql/toolkit";
import { GraphiQL } from "graphiql";
import { createElement } from "react";
import { createRoot } from "react-dom/client";

const ASSETS = new URL(".", document.currentScript.src);
const WORKERS = { graphql: "graphql.worker.js", json: "json.worker.js" };

globalThis.MonacoEnvironment = {
  getWorker: (_id, label) => new Worker(new URL(WORKERS[label] ?? "editor.worker.js", ASSETS)),
};

const root = document.getElementById("graphiql");
const examples = JSON.parse(document.getElementById("examples").textContent);
const address = new URLSearchParams(location.search);
const asked = address.has("query") ? [{ query: address.get("query"), variables: address.get("variables") }] : [];

createRoot(root).render(
  createElement(GraphiQL, {
    fetcher: createGraphiQLFetcher({ url: location.pathname }),
    defaultTabs: [...asked, ...examples],
    initialQuery: asked[0]?.query,
    initialVariables: asked[0]?.variables ?? undefined,
  }),
);
