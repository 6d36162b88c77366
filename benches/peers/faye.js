'use strict';

const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const faye = require('faye');

const { TLS_CERTIFICATE: cert, TLS_KEY: key } = process.env;
const tls = cert && { cert: fs.readFileSync(cert), key: fs.readFileSync(key) };
const server = tls ? https.createServer(tls) : http.createServer();
// Held connects and idle connections stay for as long as the clients want.
server.keepAliveTimeout = 0;
server.requestTimeout = 0;
server.timeout = 0;
new faye.NodeAdapter({ mount: '/bayeux', timeout: 25 }).attach(server);
server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => console.log(`${tls ? 'https' : 'http'}://127.0.0.1:${server.address().port}/bayeux`));

// Memory is measured without garbage.
process.on('SIGUSR2', () => global.gc());
