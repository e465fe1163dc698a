// SPDX-License-Identifier: MIT
// A web server of one page.
require("http")
  .createServer((request, response) => response.end("hello\n"))
  .listen(80);
