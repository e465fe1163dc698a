// SPDX-License-Identifier: MIT
// The same in a cluster: the primary binds, the workers answer.
const cluster = require("cluster");
if (cluster.isPrimary) {
  cluster.fork();
  cluster.fork();
  cluster.on("exit", () => process.exit(1));
} else {
  require("./serve.js");
}
