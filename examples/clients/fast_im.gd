# A chat in one group of fastimd, for Godot 4.2 or later. Put it on a node; connect its signals.
extends Node

signal said(message: Dictionary) # each message once, in order
signal not_sent(text: String, why: String) # the daemon does not take this text
signal ended(why: String) # there is no use in trying again

const FINAL_CODES: Array[int] = [1002, 1003, 1007, 1008, 1009] # it would end in the same way
const ANSWER_SECONDS := 15.0 # for the greeting, and for an answer over HTTP

@export var url := "http://127.0.0.1:9000"
@export var group := "1"
@export var user := "mara"
@export var password := "secret"

var _token := ""
var _is_logged_in := false
var _last_ts := -1 # of the newest message shown; -1: there was no greeting yet
var _unheard: Array[String] = [] # said, and not yet come back
var _socket: WebSocketPeer # while it is live
var _failures := 0
var _why_ended := ""


func _ready() -> void:
	while _why_ended.is_empty():
		var wait := randf() * minf(30.0, pow(2.0, _failures))
		_failures += 1
		if await _log_in():
			var reason: String = await _talk()
			if reason.begins_with("restart "):
				wait = reason.trim_prefix("restart ").to_int() / 1000.0
		if _why_ended.is_empty():
			await get_tree().create_timer(wait).timeout
	ended.emit(_why_ended)


# Sends a text, now or as soon as there is a connection.
func say(text: String) -> void:
	_unheard.append(text)
	if _socket != null and _socket.get_ready_state() == WebSocketPeer.STATE_OPEN:
		_socket.send_text(text)


func _log_in() -> bool:
	if _is_logged_in:
		return true
	var answer: Dictionary = await _post("/user/login", {"userId": user, "password": password})
	if answer.is_empty():
		return false
	if answer["code"] != 200:
		_why_ended = "the login is refused: %s" % answer["msg"]
		return false
	_token = answer["msg"]
	var joined: Dictionary = await _post("/user/joinGroup", {"groupId": group})
	_is_logged_in = not joined.is_empty()
	return _is_logged_in


# One connection, from its beginning to its end; returns why it was closed.
func _talk() -> String:
	var socket := WebSocketPeer.new()
	socket.inbound_buffer_size = 8 * 1024 * 1024 # a greeting may be long
	socket.outbound_buffer_size = 1024 * 1024
	socket.set("heartbeat_interval", 20.0) # Godot 4.4 and later have it
	var deadline := Time.get_ticks_msec() + int(ANSWER_SECONDS * 1000)
	var path := "%s/%s/%s" % [group.uri_encode(), user.uri_encode(), _token.uri_encode()]
	if socket.connect_to_url("ws%s/group/chat/%s" % [url.trim_prefix("http"), path]) != OK:
		return ""
	while socket.get_ready_state() != WebSocketPeer.STATE_CLOSED:
		socket.poll()
		while socket.get_available_packet_count() > 0:
			if not await _take_frame(socket, socket.get_packet().get_string_from_utf8()):
				_socket = null
				socket.close()
				return ""
		if _socket == null and Time.get_ticks_msec() > deadline:
			return "" # there is no greeting
		await get_tree().process_frame
	_socket = null
	# Godot drops frames that come together with the close: the frame 440 may be one.
	if socket.get_close_reason() == "login required":
		_is_logged_in = false
	elif socket.get_close_code() in FINAL_CODES:
		_why_ended = "closed: %d %s" % [socket.get_close_code(), socket.get_close_reason()]
	return socket.get_close_reason()


# Takes a frame; false when the connection is of no use any more.
func _take_frame(socket: WebSocketPeer, frame: String) -> bool:
	if frame == "440":
		_is_logged_in = false
		return false
	var value: Dictionary = JSON.parse_string(frame)
	if value.has("code"): # a hook refuses a text, or has failed
		_unheard.erase(value["data"])
		not_sent.emit(value["data"], value["msg"])
		return true
	if not value.has("list"):
		_take(value)
		return true
	if not await _catch_up(value["list"]):
		return false
	_failures = 0
	_socket = socket
	socket.poll() # much may have happened meanwhile
	if socket.get_ready_state() == WebSocketPeer.STATE_OPEN:
		for text in _unheard:
			socket.send_text(text)
	return true


# Takes what came since the last connection: the greeting, and what lies before it.
func _catch_up(missed: Array) -> bool:
	while not missed.is_empty() and _last_ts >= 0 and missed[0]["ts"] > _last_ts:
		var answer: Dictionary = await _post("/group/listOldMessage", {
			"groupId": missed[0]["groupId"],
			"userId": missed[0]["userId"],
			"ts": int(missed[0]["ts"]),
			"count": 100,
		})
		if answer.is_empty():
			return false
		if answer["data"] == null:
			break # a hook keeps them to itself
		var before: Array = answer["data"].map(func(text): return JSON.parse_string(text))
		if before.is_empty():
			break
		missed = before + missed
	for message in missed:
		_take(message)
	_last_ts = maxi(_last_ts, 0)
	return true


func _take(message: Dictionary) -> void:
	message["ts"] = int(message["ts"]) # numbers of JSON are floats here
	if message["ts"] <= _last_ts:
		return # it is known
	_last_ts = message["ts"]
	if message["userId"] == user:
		# Texts come back in order, so one that is not known is the first, changed by a hook;
		# before anything was sent on this connection it is another device's.
		if message["info"] in _unheard:
			_unheard.erase(message["info"])
		elif _socket != null and not _unheard.is_empty():
			_unheard.remove_at(0)
	said.emit(message)


# The answer; empty when there is none that is of use.
func _post(path: String, fields: Dictionary) -> Dictionary:
	var request := HTTPRequest.new()
	request.timeout = ANSWER_SECONDS
	add_child(request)
	var headers: PackedStringArray = [
		"Content-Type: application/x-www-form-urlencoded", "userId: " + user, "token: " + _token
	]
	var body := HTTPClient.new().query_string_from_dict(fields)
	if request.request(url + path, headers, HTTPClient.METHOD_POST, body) != OK:
		request.queue_free()
		return {}
	var result: Array = await request.request_completed # result, status, headers, body
	request.queue_free()
	var status: int = result[1]
	var text: String = result[3].get_string_from_utf8()
	if status >= 400 and status < 500 and status not in [408, 429]:
		_why_ended = "%d: %s" % [status, text]
	if status != 200:
		return {}
	var answer: Dictionary = JSON.parse_string(text)
	if answer["code"] == 440:
		_is_logged_in = false
		return {}
	return answer
