// Portkey takes the upstream from headers of each request, which clients of the other proxies need not send.
//
//     UPSTREAM=http://127.0.0.1:8000/v1 node --require ./portkey.cjs node_modules/@portkey-ai/gateway/build/start-server.js

const { Server } = require('node:http');

const emit = Server.prototype.emit;

Server.prototype.emit = function (event, request, ...rest) {
  if (event === 'request') {
    request.rawHeaders.push('x-portkey-provider', 'openai', 'x-portkey-custom-host', process.env.UPSTREAM);
  }
  return emit.call(this, event, request, ...rest);
};
