;; A session of Emacs' dap-mode without a screen: launch, two steps, one back, an expression.
;; Environment: ADAPTER the program, RECORDING and FOLDER what it is told, SOURCE a C file.
(require 'package)
(package-initialize)
(require 'dap-mode)
(defvar came 0)
(defun wait-for (count)
  (let ((left 600))
    (while (and (< came count) (> left 0))
      (accept-process-output nil 0.1)
      (setq left (1- left)))))
(dap-register-debug-provider
 "pybpfvm" (lambda (conf) (plist-put conf :dap-server-path (list (getenv "ADAPTER")))))
(add-hook 'dap-stack-frame-changed-hook
          (lambda (session)
            (let ((frame (dap--debug-session-active-frame session)))
              (when frame
                (setq came (1+ came))
                (message "FRAME %s %s" (gethash "name" frame) (gethash "line" frame))))))
(find-file (getenv "SOURCE"))
(dap-debug (list :type "pybpfvm" :request "launch" :name "test"
                 :recording (getenv "RECORDING") :cwd (getenv "FOLDER")))
(wait-for 1)
(dap-next (dap--cur-session))
(wait-for 2)
(dap-step-in (dap--cur-session))
(wait-for 3)
(dap--send-message (dap--make-request "stepBack" (list :threadId 2)) #'ignore (dap--cur-session))
(wait-for 4)
(dap--send-message
 (dap--make-request "evaluate" (list :expression "1 + players[1].hits" :context "watch"))
 (lambda (answer)
   (setq came (1+ came))
   (message "VALUE %s" (gethash "result" (gethash "body" answer))))
 (dap--cur-session))
(wait-for 5)
(dap-disconnect (dap--cur-session))
(accept-process-output nil 1)
(kill-emacs 0)
